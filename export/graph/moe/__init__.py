"""Mixture of experts as a feed-forward network: routing, experts, and their storage for one fused operator."""
