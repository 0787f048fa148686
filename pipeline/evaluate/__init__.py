"""Every model in every test world -> metrics with confidence intervals."""
