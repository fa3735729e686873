"""Affiliate tracking for Django that stays out of the business code."""
