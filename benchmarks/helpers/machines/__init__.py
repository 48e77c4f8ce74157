"""What stands for machines: hosts, etcd, processor time, an older revision, what processes hold."""
