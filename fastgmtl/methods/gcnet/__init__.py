"""GCNet, a learned causal graph between tasks, and its ancestors SGNN and SGNN-EBM on a given one."""
