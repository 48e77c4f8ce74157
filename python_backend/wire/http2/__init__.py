"""Large messages to other hosts: gRPC calls over plain sockets, sent from where their tensors lie."""
