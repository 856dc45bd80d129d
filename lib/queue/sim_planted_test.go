package queue_test

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/distci/distci/lib/coord"
)

// planted is a connection whose transactions are changed, so that the queue
// above it has a fault.
type planted struct {
	coord.Conn
	txn func(ctx context.Context, conn coord.Conn, ops []coord.Op) ([]coord.Stat, error)
}

func (p planted) Txn(ctx context.Context, ops ...coord.Op) ([]coord.Stat, error) {
	return p.txn(ctx, p.Conn, slices.Clone(ops))
}

func isClaim(op coord.Op) bool { return strings.HasPrefix(op.Path, "/c/") }

// endsTicket tells whether ops complete a ticket.
func endsTicket(ops []coord.Op) bool {
	return len(ops) > 2 && ops[0].Kind == coord.OpDelete && strings.Contains(ops[0].Path, "/t/") && isClaim(ops[2])
}

// deleteClaim: who is refused removes its claim, whoever's it is by now. (In
// the transaction itself the version of the claim is one of two proofs.)
func deleteClaim(ctx context.Context, conn coord.Conn, ops []coord.Op) ([]coord.Stat, error) {
	stats, err := conn.Txn(ctx, ops...)
	i := slices.IndexFunc(ops, func(op coord.Op) bool { return isClaim(op) && op.Kind == coord.OpDelete })
	created := slices.ContainsFunc(ops, func(op coord.Op) bool { return isClaim(op) && op.Kind == coord.OpCreate })
	if errors.As(err, new(*coord.TxnError)) && i >= 0 && !created {
		_, _ = conn.Txn(ctx, coord.Delete(ops[i].Path, coord.AnyVersion))
	}
	return stats, err
}

// completeByID: a ticket is completed in whatever version it is.
func completeByID(ctx context.Context, conn coord.Conn, ops []coord.Op) ([]coord.Stat, error) {
	if endsTicket(ops) {
		ops[0].Version = coord.AnyVersion
	}
	return conn.Txn(ctx, ops...)
}

// guessSuccess: the repeat of a commit whose answer was lost finds the ticket
// gone, and takes that for its own doing.
func guessSuccess() func(context.Context, coord.Conn, []coord.Op) ([]coord.Stat, error) {
	uncertain := map[string]bool{}
	return func(ctx context.Context, conn coord.Conn, ops []coord.Op) ([]coord.Stat, error) {
		stats, err := conn.Txn(ctx, ops...)
		next := slices.ContainsFunc(ops, func(op coord.Op) bool { return isClaim(op) && op.Ephemeral })
		if !endsTicket(ops) || next { // the claim of the next one would be guessed as well
			return stats, err
		}
		if errors.Is(err, coord.ErrUnknown) {
			uncertain[ops[0].Path] = true
		}
		if uncertain[ops[0].Path] && coord.Refused(err, 0) && errors.Is(err, coord.ErrNoNode) {
			return make([]coord.Stat, len(ops)), nil
		}
		return stats, err
	}
}

// noProbe: a ticket is given back without the proof that nobody holds it.
func noProbe(ctx context.Context, conn coord.Conn, ops []coord.Op) ([]coord.Stat, error) {
	for len(ops) > 2 && ops[0].Kind == coord.OpCreate && ops[1].Kind == coord.OpDelete && ops[0].Path == ops[1].Path {
		ops = ops[2:]
	}
	return conn.Txn(ctx, ops...)
}

// TestPlanted: the simulation finds the faults that it is there to find.
func TestPlanted(t *testing.T) {
	for _, c := range []struct {
		name string
		txn  func() func(context.Context, coord.Conn, []coord.Op) ([]coord.Stat, error)
	}{
		{"unversioned delete of a claim", func() func(context.Context, coord.Conn, []coord.Op) ([]coord.Stat, error) { return deleteClaim }},
		{"completing by id alone", func() func(context.Context, coord.Conn, []coord.Op) ([]coord.Stat, error) { return completeByID }},
		{"guessing success after no node", guessSuccess},
		{"requeue without the probe", func() func(context.Context, coord.Conn, []coord.Op) ([]coord.Stat, error) { return noProbe }},
	} {
		t.Run(c.name, func(t *testing.T) {
			seed, found, total := explore(t, *schedulesFlag, func(conn coord.Conn) coord.Conn { return planted{conn, c.txn()} })
			if len(found.broken) == 0 {
				t.Fatalf("not found by %d schedules", total.schedules)
			}
			t.Logf("found by schedule %d: %s", seed, found.broken[0])
		})
	}
}
