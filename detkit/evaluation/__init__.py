"""Metrics: from detections and truth to scores, and what stands behind them."""
