package lxc

// DefaultState is the folder for what containers need on disk, unless somebody
// says otherwise.
func DefaultState() string { return defaultState() }
