"""The web page: one file per tab, and what the tabs share. It knows requests and frames, never tensors."""
