"""The wing through which a conversion leaves the house, as an HTTP callback to the partner."""
