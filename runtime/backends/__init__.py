"""What runs a network on this machine; each back end is imported only when it is asked for."""
