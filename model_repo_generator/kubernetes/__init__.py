"""Deployment artefacts of a plan for a real cluster: Kubernetes bundle, docker compose file, alerts, dashboard."""
