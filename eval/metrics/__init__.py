"""Error rates: normalization, units, confidence intervals and paired tests."""
