"""Who owns what among several processes: leases in a store that all of them reach."""
