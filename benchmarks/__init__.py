"""Measurements that anyone can repeat; docs/performance.md quotes them."""
