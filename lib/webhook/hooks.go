package webhook

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// Hook is what makes a forge's deliveries for a job believed. It is an object in
// the store: HMAC needs the secret itself, so it cannot be a hash of it. Who may
// read the store are the frontends and workers of the cluster; no step can, and
// nothing that REST serves.
type Hook struct {
	JobID   string    `json:"job_id"`
	Forge   Forge     `json:"forge"`
	Secret  string    `json:"secret"`
	Created time.Time `json:"created"` // of the secret
	// Previous is a secret that counts besides until a time, so that it can be
	// changed here first and at the forge then. "": there is none.
	Previous string    `json:"previous,omitempty"`
	Until    time.Time `json:"previous_until,omitzero"`
}

// Errors of Hooks.
var (
	ErrNoHook     = fault.Errorf(fault.Unavailable, "there is no such hook")
	ErrHookExists = fault.Errorf(fault.Usage, "there is such a hook; rotate gives it another secret")
)

// Hooks are those of a cluster.
type Hooks struct{ st store.Store }

// NewHooks returns the hooks that are in st.
func NewHooks(st store.Store) Hooks { return Hooks{st} }

const hooksPrefix = "access/hooks/"

// hookKey is where a hook is. A part of a key has 255 bytes at most, a job's id
// one more.
func hookKey(job string, f Forge) string {
	if len(job) > 255 {
		job = job[:255] + "/" + job[255:]
	}
	return hooksPrefix + job + "/" + string(f)
}

// Secrets are those with which a forge's deliveries for a job may be signed now;
// none if there is no such hook.
func (h Hooks) Secrets(ctx context.Context, job string, f Forge, now time.Time) ([]string, error) {
	hook, _, err := h.get(ctx, job, f)
	if errors.Is(err, ErrNoHook) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	secrets := []string{hook.Secret}
	if hook.Previous != "" && now.Before(hook.Until) {
		secrets = append(secrets, hook.Previous)
	}
	return secrets, nil
}

func (h Hooks) get(ctx context.Context, job string, f Forge) (Hook, string, error) {
	b, info, err := store.ReadAll(ctx, h.st, hookKey(job, f))
	if errors.Is(err, store.ErrNotFound) {
		return Hook{}, "", ErrNoHook
	}
	if err != nil {
		return Hook{}, "", err
	}
	var hook Hook
	if err := json.Unmarshal(b, &hook); err != nil || hook.Secret == "" {
		return Hook{}, "", fault.Errorf(fault.Internal, "the hook of job %s for %s is damaged", job, f)
	}
	return hook, info.Version, nil
}

// Create makes a hook, with a secret of its own. Errors: ErrHookExists.
func (h Hooks) Create(ctx context.Context, job string, f Forge, now time.Time) (Hook, error) {
	hook := Hook{JobID: job, Forge: f, Secret: newSecret(), Created: now.UTC().Truncate(time.Second)}
	b, err := json.Marshal(hook)
	if err != nil {
		return Hook{}, err
	}
	_, err = h.st.Create(ctx, hookKey(job, f), bytes.NewReader(b))
	if errors.Is(err, store.ErrExists) {
		return Hook{}, ErrHookExists
	}
	return hook, err
}

// newSecret is 256 random bits, as what every forge's form takes.
func newSecret() string {
	var b [32]byte
	_, _ = rand.Read(b[:]) // never fails
	return hex.EncodeToString(b[:])
}

// Rotate gives a hook another secret; the one before counts for so long. Errors:
// ErrNoHook.
func (h Hooks) Rotate(ctx context.Context, job string, f Forge, keep time.Duration, now time.Time) (Hook, error) {
	for {
		hook, version, err := h.get(ctx, job, f)
		if err != nil {
			return Hook{}, err
		}
		hook.Previous, hook.Until = "", time.Time{}
		if keep > 0 {
			hook.Previous, hook.Until = hook.Secret, now.UTC().Add(keep).Truncate(time.Second)
		}
		hook.Secret, hook.Created = newSecret(), now.UTC().Truncate(time.Second)
		b, err := json.Marshal(hook)
		if err != nil {
			return Hook{}, err
		}
		if _, err = h.st.Swap(ctx, hookKey(job, f), version, bytes.NewReader(b)); !errors.Is(err, store.ErrConflict) {
			return hook, err
		}
	}
}

// Remove removes a hook: nothing is believed any more that is signed with its
// secret. Errors: ErrNoHook.
func (h Hooks) Remove(ctx context.Context, job string, f Forge) error {
	err := h.st.Delete(ctx, hookKey(job, f))
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoHook
	}
	return err
}

// List returns the hooks of a job, or with "" of all, in their order and
// without the secrets. Those that cannot be read are told in the error, which
// does not keep the others from being returned.
func (h Hooks) List(ctx context.Context, job string) ([]Hook, error) {
	hooks := []Hook{}
	var bad []error
	for after := ""; ; {
		infos, err := h.st.List(ctx, hooksPrefix, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			after = i.Key
			id, f, err := splitHookKey(i.Key)
			if err != nil || job != "" && id != job {
				continue
			}
			hook, _, err := h.get(ctx, id, f)
			switch {
			case errors.Is(err, ErrNoHook): // removed meanwhile
			case err != nil:
				bad = append(bad, err)
			default:
				hook.Secret, hook.Previous = "", ""
				hooks = append(hooks, hook)
			}
		}
		if len(infos) < 1000 {
			slices.SortFunc(hooks, func(a, b Hook) int {
				return strings.Compare(a.JobID+" "+string(a.Forge), b.JobID+" "+string(b.Forge))
			})
			return hooks, errors.Join(bad...)
		}
	}
}

func splitHookKey(key string) (job string, f Forge, err error) {
	parts := strings.Split(strings.TrimPrefix(key, hooksPrefix), "/")
	if len(parts) < 2 {
		return "", "", fmt.Errorf("%q is no hook's key", key)
	}
	f, err = ParseForge(parts[len(parts)-1])
	return strings.Join(parts[:len(parts)-1], ""), f, err
}
