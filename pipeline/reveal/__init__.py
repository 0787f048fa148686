"""Features -> findings: suspicious clusters and neurons; accepted ones become biases with a CAV."""
