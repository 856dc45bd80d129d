package gc

import (
	"context"
	"encoding/hex"
	"errors"
	"path"
	"strings"

	"github.com/distci/distci/lib/repo"
	"github.com/distci/distci/lib/store"
)

// marks is the set of the layers that something refers to, by the first 8
// bytes of their digests: should two be alike, both stay.
type marks map[[8]byte]struct{}

// short is a digest, with or without its algorithm, as it is in marks.
func short(digest string) (s [8]byte, ok bool) {
	_, digits, _ := strings.Cut(digest, ":")
	if digits == "" {
		digits = digest
	}
	if len(digits) < 16 {
		return s, false
	}
	_, err := hex.Decode(s[:], []byte(digits[:16]))
	return s, err == nil
}

// mark notes that something refers to a layer.
func (c *collector) mark(digest string) {
	if s, ok := short(digest); ok {
		c.mu.Lock()
		c.marked[s] = struct{}{}
		c.mu.Unlock()
	}
}

// layers removes those that nothing refers to.
func (c *collector) layers(ctx context.Context) error {
	if c.blind {
		c.problem("layers: none was removed, as not all that refers to them can be read")
		return nil
	}
	for after := ""; ; {
		infos, err := c.store.List(ctx, repo.LayersPrefix, after, 1000)
		if err != nil {
			return err
		}
		for _, i := range infos {
			after = i.Key
			if err := c.layer(ctx, i); err != nil {
				return err
			}
		}
		if len(infos) < 1000 {
			return nil
		}
	}
}

func (c *collector) layer(ctx context.Context, i store.Info) error {
	s, ok := short(path.Base(i.Key))
	if !ok {
		return nil // not ours
	}
	if _, ok := c.marked[s]; ok {
		return nil
	}
	reason := "nothing refers to it"
	switch {
	case i.Size == 0:
		reason = "its removal was not finished" // see store.Remove
	case !c.old(i.Modified):
		return nil
	}
	if !c.DryRun {
		if err := c.held(ctx); err != nil {
			return err
		}
		err := store.Remove(ctx, c.store, i.Key, i.Version)
		if errors.Is(err, store.ErrConflict) || errors.Is(err, store.ErrNotFound) {
			return nil // it was just written once more; or removed, the answer being lost
		}
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil {
			return nil // there was no time left for its removal; the next run
		}
		if err != nil {
			return err
		}
	}
	c.gone(Item{Kind: Layer, Key: i.Key, Count: 1, Bytes: i.Size, Reason: reason})
	return nil
}
