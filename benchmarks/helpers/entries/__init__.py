"""Several entries: killed, limited, on hosts apart."""
