"""Probe of the search's gradient: its agreement between batches, and with the gradient of the deployed loss."""
