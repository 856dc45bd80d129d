package store

import (
	"context"
	"time"
)

// Sweeper is implemented by a store that may hold garbage of its own, which no
// key names: what its writers leave behind when they are killed, such as the
// chunks of an object whose manifest was never written. Ask with a type
// assertion; a store without garbage has no Sweep.
type Sweeper interface {
	// Sweep removes such garbage, as far as it is older than grace by the
	// store's own clock, and says what it was; with dryRun it only says it. No
	// writer that is at work takes longer than grace over one object. Sweep may
	// run beside writers and other sweeps, and may be killed at any time: the
	// next one finishes the work. After an error, Swept is what was done before.
	Sweep(ctx context.Context, grace time.Duration, dryRun bool) (Swept, error)
}

// Swept is what a Sweep has removed, or would.
type Swept struct {
	Objects int   `json:"objects"`
	Bytes   int64 `json:"bytes"`
}
