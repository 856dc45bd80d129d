package main

import (
	"context"
	"fmt"
	"log/slog"

	"github.com/spf13/pflag"

	"github.com/distci/distci/lib/api"
	"github.com/distci/distci/lib/cluster"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/member"
	"github.com/distci/distci/lib/metrics"
	"github.com/distci/distci/lib/observe"
	"github.com/distci/distci/lib/queue"
	"github.com/distci/distci/lib/tool"
	"github.com/distci/distci/lib/workspace"
)

// measured is where the metrics are served besides /metrics of the interface,
// which needs the role read.
type measured struct{ address *string }

func metricsFlags(fs *pflag.FlagSet) measured {
	return measured{fs.String("metrics", "", "serve /metrics, to everybody on this machine, at `ADDRESS` as well: a loopback host:port or unix:/path")}
}

func (measured) new() *metrics.Metrics {
	return metrics.New(metrics.Options{Program: name, Version: tool.Version, Serving: true})
}

// errAway: nobody waits for a service that does not answer.
var errAway = fault.Errorf(fault.Temporary, "the coordination service does not answer")

// look adds what is not told but must be looked for, and serves the metrics at
// their own address, if they have one, until stop is called.
func (o measured) look(m *metrics.Metrics, cl *cluster.Cluster, cache *workspace.Cache, traffic *api.Traffic, log *slog.Logger) (stop func(), err error) {
	cache.Observe(func(hit bool) { m.Add(observe.Event{Layer: &observe.Layer{Hit: hit}}) })
	m.AddBytes(func() (all []metrics.Bytes) {
		for kind, n := range traffic.Counts() {
			all = append(all, metrics.Bytes{Kind: kind, In: n.In, Out: n.Out})
		}
		return all
	})
	m.AddQueue(func(ctx context.Context) ([]queue.Load, error) {
		if !cl.Repo.Reachable() {
			return nil, errAway
		}
		return cl.Repo.Queue().Loads(ctx)
	}, func(ctx context.Context) ([]member.Member, error) { return member.List(ctx, cl.Conn) })
	if *o.address == "" {
		return func() {}, nil
	}
	l, err := observe.Listen(*o.address)
	if err != nil {
		return nil, fmt.Errorf("--metrics: %w", err)
	}
	log.Info("serving metrics at " + l.Addr().String())
	return m.Serve(l, log), nil
}
