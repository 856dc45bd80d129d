package access

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"hash/crc32"
	"math/big"
	"strings"
	"time"
	"unicode"

	"golang.org/x/sync/errgroup"

	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/store"
)

// A token is
//
//	distci_<id>_<secret><check>
//
// with an id of 12 digits and lower-case letters, a secret of 256 random bits
// as 43 digits of base 62, and the CRC-32 of all before it as 6 digits of base
// 62. The prefix and the check sum are for scanners that look for secrets in
// what people publish; neither makes it any safer.
//
// The store has the SHA-256 of the secret. A slow hash, as for passwords, would
// gain nothing: nobody can guess 256 random bits, however fast he tries.
const (
	tokenPrefix = "distci_"
	idDigits    = 12
	keyDigits   = 43
	checkDigits = 6
	tokenLength = len(tokenPrefix) + idDigits + 1 + keyDigits + checkDigits
)

// TokenPattern is a regular expression that finds tokens in texts.
const TokenPattern = `\bdistci_[0-9a-z]{12}_[0-9A-Za-z]{49}\b`

// Token is what the store has of a token: everything but its secret.
type Token struct {
	ID      string    `json:"id"`
	Name    string    `json:"name"`
	Role    Role      `json:"role"`
	Jobs    []string  `json:"jobs,omitempty"` // patterns; none: all jobs
	Created time.Time `json:"created"`
	Expires time.Time `json:"expires,omitzero"` // zero: never
	Last    string    `json:"last"`             // last 4 characters, to tell it from others
	Hash    string    `json:"hash,omitempty"`   // SHA-256 of the secret, hexadecimal
}

// tokensPrefix is where tokens are in the store.
const tokensPrefix = "access/tokens/"

// ErrNoToken: there is no token of this id.
var ErrNoToken = fault.Errorf(fault.Unavailable, "no such token")

// digits is n in base 62 with so many digits, zeros in front.
func digits(n *big.Int, count int) string {
	s := n.Text(62)
	return strings.Repeat("0", max(0, count-len(s))) + s
}

func check(s string) string {
	return digits(big.NewInt(int64(crc32.ChecksumIEEE([]byte(s)))), checkDigits)
}

// parseToken splits a token. Errors never repeat any of it.
func parseToken(s string) (id, secret string, err error) {
	rest, ok := strings.CutPrefix(s, tokenPrefix)
	if !ok || len(s) != tokenLength || rest[idDigits] != '_' || !validID(rest[:idDigits]) ||
		check(s[:tokenLength-checkDigits]) != s[tokenLength-checkDigits:] {
		return "", "", Unauthenticated("this is not a token, or not a whole one")
	}
	return rest[:idDigits], rest[idDigits+1 : idDigits+1+keyDigits], nil
}

func validID(id string) bool {
	return len(id) == idDigits && strings.Trim(id, "0123456789abcdefghijklmnopqrstuvwxyz") == ""
}

func hashOf(secret string) string {
	sum := sha256.Sum256([]byte(secret))
	return hex.EncodeToString(sum[:])
}

// NewToken makes a token out of a name, a role, job patterns and an expiry, and
// returns the token itself as well, which nobody can make again. Errors are of
// kind Usage.
func NewToken(t Token, now time.Time) (Token, string, error) {
	if t.Name == "" || len(t.Name) > 100 || strings.ContainsFunc(t.Name, func(r rune) bool { return !unicode.IsPrint(r) }) {
		return t, "", fault.Errorf(fault.Usage, "token name %.200q: expected 1 to 100 printable characters", t.Name)
	}
	if _, err := ParseRole(string(t.Role)); err != nil {
		return t, "", err
	}
	if err := CheckPatterns(t.Jobs); err != nil {
		return t, "", err
	}
	if !t.Expires.IsZero() && !t.Expires.After(now) {
		return t, "", fault.Errorf(fault.Usage, "token: it would have expired on %s", t.Expires.Format(time.RFC3339))
	}
	t.ID = strings.ToLower(rand.Text()[:idDigits])
	var random [32]byte
	rand.Read(random[:]) // never fails
	secret := digits(new(big.Int).SetBytes(random[:]), keyDigits)
	token := tokenPrefix + t.ID + "_" + secret
	token += check(token)
	t.Created, t.Expires = now.UTC().Truncate(time.Second), t.Expires.UTC().Truncate(time.Second)
	t.Last, t.Hash = token[len(token)-4:], hashOf(secret)
	return t, token, nil
}

// CreateToken puts a token into the store.
func CreateToken(ctx context.Context, st store.Store, t Token) error {
	b, err := json.Marshal(t)
	if err != nil {
		return err
	}
	_, err = st.Create(ctx, tokensPrefix+t.ID, bytes.NewReader(b))
	return err
}

// RevokeToken removes a token. Errors: ErrNoToken.
func RevokeToken(ctx context.Context, st store.Store, id string) error {
	if !validID(id) {
		return ErrNoToken
	}
	err := st.Delete(ctx, tokensPrefix+id)
	if errors.Is(err, store.ErrNotFound) {
		return ErrNoToken
	}
	return err
}

// stored is a token's record as it was read at a version.
type stored struct {
	version string
	token   Token
	bad     error // why the record cannot be read
}

// readTokens returns the records of all tokens by id. What is in known at the
// same version is not read again.
func readTokens(ctx context.Context, st store.Store, known map[string]stored) (map[string]stored, error) {
	all := map[string]stored{}
	type read struct {
		id string
		stored
	}
	var changed []*read
	for after := ""; ; {
		infos, err := st.List(ctx, tokensPrefix, after, 1000)
		if err != nil {
			return nil, err
		}
		for _, i := range infos {
			after = i.Key
			id := strings.TrimPrefix(i.Key, tokensPrefix)
			if have, ok := known[id]; ok && have.version == i.Version {
				all[id] = have
			} else {
				changed = append(changed, &read{id: id})
			}
		}
		if len(infos) < 1000 {
			break
		}
	}
	group, reading := errgroup.WithContext(ctx)
	group.SetLimit(16)
	for _, c := range changed {
		group.Go(func() error {
			b, info, err := store.ReadAll(reading, st, tokensPrefix+c.id)
			if err != nil {
				if errors.Is(err, store.ErrNotFound) {
					return nil // revoked since; it has no version
				}
				return err
			}
			c.version = info.Version
			if c.bad = json.Unmarshal(b, &c.token); c.bad == nil && (c.token.ID != c.id || len(c.token.Hash) != sha256.Size*2) {
				c.bad = errors.New("the record is of another token")
			}
			return nil
		})
	}
	if err := group.Wait(); err != nil {
		return nil, err
	}
	for _, c := range changed {
		if c.version != "" {
			all[c.id] = c.stored
		}
	}
	return all, nil
}

// ListTokens returns the records of all tokens, the oldest first, and the ids
// of those that cannot be read.
func ListTokens(ctx context.Context, st store.Store) (tokens []Token, bad []string, err error) {
	all, err := readTokens(ctx, st, nil)
	if err != nil {
		return nil, nil, err
	}
	for id, s := range all {
		if s.bad != nil {
			bad = append(bad, id)
		} else {
			tokens = append(tokens, s.token)
		}
	}
	sortTokens(tokens)
	return tokens, bad, nil
}
