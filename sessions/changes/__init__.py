"""Changes as the server's stream tells them: one stream for any number of followers."""
