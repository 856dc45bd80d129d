// Package version is the version of everything in this repository.
package version

// Number is the version of all programs.
const Number = "0.1.0"
