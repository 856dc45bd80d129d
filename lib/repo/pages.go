package repo

import (
	"context"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/distci/distci/lib/ticket"
)

// BuildsBefore lists the numbers of a job's builds that are less than before, at
// most limit of them and of those the highest, in order. It asks the store for
// about as much as it returns, however many builds there are.
func (r *Repo) BuildsBefore(ctx context.Context, id string, before ticket.Number, limit int) ([]ticket.Number, error) {
	names, err := r.conn.Children(ctx, buildsRoot)
	if err != nil {
		return nil, err
	}
	var found []ticket.Number
	top := ticket.Number(0) // above which there are no more
	for _, name := range names {
		if s, ok := strings.CutPrefix(name, id+":"); ok {
			if n, err := strconv.ParseInt(s, 10, 64); err == nil {
				top = max(top, ticket.Number(n))
				if ticket.Number(n) < before {
					found = append(found, ticket.Number(n))
				}
			}
		}
	}
	last, err := r.LastNumber(ctx, id)
	if err == nil && last == 0 { // they may come from another cluster
		last, err = r.HighestStored(ctx, id)
	}
	if err != nil {
		return nil, err
	}
	// The numbers below are looked through from the top, more of them at a time
	// while few are there: builds may have been removed.
	high := min(before, max(top, last)+1)
	stored := 0
	for width := ticket.Number(limit); high > 1 && stored < limit; width *= 4 {
		low := max(1, high-width)
		ns, err := r.storedBetween(ctx, id, low, high)
		if err != nil {
			return nil, err
		}
		found, stored, high = append(found, ns...), stored+len(ns), low
	}
	slices.Sort(found)
	found = slices.Compact(found)
	return found[max(0, len(found)-limit):], nil
}

// storedBetween lists the builds in the store from low to below high.
func (r *Repo) storedBetween(ctx context.Context, id string, low, high ticket.Number) ([]ticket.Number, error) {
	var ns []ticket.Number
	after := fmt.Sprintf("%016d", low-1)
	for {
		page := int(min(1000, high-low))
		names, err := r.store.Folders(ctx, jobPrefix(id), after, page)
		if err != nil {
			return nil, err
		}
		for _, name := range names {
			after = name
			n, err := strconv.ParseInt(name, 10, 64)
			if err != nil || len(name) != numberDigits {
				continue
			}
			if ticket.Number(n) >= high {
				return ns, nil
			}
			ns = append(ns, ticket.Number(n))
		}
		if len(names) < page {
			return ns, nil
		}
	}
}
