package access

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"golang.org/x/crypto/chacha20poly1305"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// keysAt is where the frontends of a cluster share the keys with which they
// seal cookies. Whoever may read it may make himself anybody, as may whoever
// may write to the store at all.
const keysAt = "access/session-keys"

// The times of a key.
const (
	keyRotate  = 30 * 24 * time.Hour // a new one is made when the newest is so old
	keySettle  = 3 * time.Minute     // a new one is not used before every frontend has it
	keyReread  = time.Minute         // how often a frontend looks for new ones
	keyUnknown = time.Second         // the same if it meets one that it does not know
)

// errSealed: what was to be opened is not something that we have sealed, or
// with a key that is gone.
var errSealed = errors.New("not sealed by us")

// sealKey is one key, as it is stored.
type sealKey struct {
	ID   string    `json:"id"`
	Key  []byte    `json:"key"`
	Made time.Time `json:"made"`
}

func (k sealKey) aead() (cipher.AEAD, error) { return chacha20poly1305.NewX(k.Key) }

// keyring seals what is given into a browser's keeping: nobody else can read
// or make it. Its keys are in the store, where the first frontend that needs
// one makes it. A key that has a successor opens what it has sealed for as long
// as that may be of use.
type keyring struct {
	store store.Store
	life  time.Duration // how long something sealed may be of use
	now   func() time.Time

	mu   sync.Mutex
	keys []sealKey // newest first
	read time.Time // when; zero: never
}

// seal makes a text of v that only open with the same purpose reads. The text
// is safe in a cookie: the key's id, a dot, and base64url.
func (k *keyring) seal(ctx context.Context, purpose string, v any) (string, error) {
	plain, err := json.Marshal(v)
	if err != nil {
		return "", err
	}
	keys, err := k.get(ctx, keyReread)
	if err != nil {
		return "", err
	}
	key := keys[len(keys)-1]
	for _, c := range keys {
		if k.now().Sub(c.Made) >= keySettle {
			key = c
			break
		}
	}
	aead, err := key.aead()
	if err != nil {
		return "", err
	}
	nonce := make([]byte, aead.NonceSize(), aead.NonceSize()+len(plain)+aead.Overhead())
	rand.Read(nonce)
	return key.ID + "." + base64.RawURLEncoding.EncodeToString(aead.Seal(nonce, nonce, plain, []byte(purpose))), nil
}

// open reads what seal has made. errSealed if it was not, for this purpose.
func (k *keyring) open(ctx context.Context, purpose, text string, v any) error {
	id, body, ok := strings.Cut(text, ".")
	if !ok || len(text) > 8192 {
		return errSealed
	}
	sealed, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil || len(sealed) < chacha20poly1305.NonceSizeX {
		return errSealed
	}
	var key *sealKey
	for _, age := range []time.Duration{keyReread, keyUnknown} {
		keys, err := k.get(ctx, age)
		if err != nil {
			return err
		}
		for i := range keys {
			if keys[i].ID == id {
				key = &keys[i]
			}
		}
		if key != nil {
			break
		}
	}
	if key == nil {
		return errSealed
	}
	aead, err := key.aead()
	if err != nil {
		return err
	}
	plain, err := aead.Open(nil, sealed[:aead.NonceSize()], sealed[aead.NonceSize():], []byte(purpose))
	if err != nil || json.Unmarshal(plain, v) != nil {
		return errSealed
	}
	return nil
}

// get returns the keys, of which there is at least one, as they were in the
// store not longer ago than age. The result is not to be changed.
func (k *keyring) get(ctx context.Context, age time.Duration) ([]sealKey, error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.read.IsZero() && k.now().Sub(k.read) < age {
		return k.keys, nil
	}
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	for range 10 { // others may be making a key at the same time
		keys, version, err := k.load(ctx)
		if err != nil {
			return nil, fault.Errorf(fault.Temporary, "the keys of the sessions cannot be read: %w", err)
		}
		if len(keys) > 0 && k.now().Sub(keys[0].Made) < keyRotate {
			k.keys, k.read = keys, k.now()
			return k.keys, nil
		}
		body, err := json.Marshal(map[string]any{"keys": k.rotated(keys)})
		if err != nil {
			return nil, err
		}
		_, err = k.store.Swap(ctx, keysAt, version, bytes.NewReader(body))
		if err != nil && !errors.Is(err, store.ErrConflict) && !errors.Is(err, store.ErrUnknown) {
			return nil, fault.Errorf(fault.Temporary, "a key for sessions cannot be stored: %w", err)
		}
	}
	return nil, fault.Errorf(fault.Temporary, "a key for sessions cannot be stored: others change it all the time")
}

// load reads the keys from the store; none if there are none yet.
func (k *keyring) load(ctx context.Context) (keys []sealKey, version string, err error) {
	b, info, err := store.ReadAll(ctx, k.store, keysAt)
	if errors.Is(err, store.ErrNotFound) {
		return nil, "", nil
	}
	if err != nil {
		return nil, "", err
	}
	var v struct{ Keys []sealKey }
	if err := json.Unmarshal(b, &v); err != nil {
		return nil, "", fmt.Errorf("%s: %w", keysAt, err)
	}
	for _, key := range v.Keys {
		if _, err := key.aead(); err != nil || key.ID == "" {
			return nil, "", fmt.Errorf("%s: key %q is not one", keysAt, key.ID)
		}
	}
	return v.Keys, info.Version, nil
}

// rotated puts a new key before the others, and leaves out those that have
// been of no use since their successors' times.
func (k *keyring) rotated(old []sealKey) []sealKey {
	key := make([]byte, chacha20poly1305.KeySize)
	rand.Read(key)
	keys := []sealKey{{ID: strings.ToLower(rand.Text()[:8]), Key: key, Made: k.now().UTC()}}
	for _, o := range old {
		// The last of them still sealed until now. A successor that is the new key
		// is used a while after it is made, by a clock that may be another one's.
		if k.now().Sub(keys[len(keys)-1].Made) < k.life+time.Hour {
			keys = append(keys, o)
		}
	}
	return keys
}
