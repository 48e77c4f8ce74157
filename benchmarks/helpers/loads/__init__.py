"""What is sent: frames, requests, clips, and the clients that send them."""
