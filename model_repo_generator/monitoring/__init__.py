"""What is to be watched of a served deployment: metrics, alerts, a dashboard, and where Prometheus looks."""

from model_repo_generator.monitoring.prometheus import render_prometheus

__all__ = ["render_prometheus"]
