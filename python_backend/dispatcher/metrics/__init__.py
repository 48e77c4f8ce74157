"""What a dispatcher counts and how long things really take, and the page that Prometheus reads."""
