package api

import (
	"container/list"
	"fmt"
	"math"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"time"

	"golang.org/x/time/rate"

	"github.com/distci/distci/lib/access"
)

// Limits bound how many requests come from one and the same. Whoever is known
// is counted by the token, the certificate or the session, wherever he comes
// from; whoever is not, by the address.
type Limits struct {
	mu    sync.Mutex
	rate  rate.Limit
	burst int
	slots map[string]*list.Element
	used  *list.List // of *slot, the one used last in front
}

// slot is what is known of one client.
type slot struct {
	key     string
	limiter *rate.Limiter
}

const (
	// limitSlots bounds the memory: who has been silent the longest is
	// forgotten.
	limitSlots = 10_000
	// burstTime is how long a client may have been silent that asks for all at
	// once what it could have asked for meanwhile.
	burstTime = 10 * time.Second
)

// NewLimits returns limits of so many requests a second.
func NewLimits(perSecond float64) *Limits {
	return &Limits{rate: rate.Limit(perSecond), burst: max(1, int(perSecond*burstTime.Seconds())),
		slots: map[string]*list.Element{}, used: list.New()}
}

// of finds or makes the slot of a client.
func (l *Limits) of(key string) *slot {
	l.mu.Lock()
	defer l.mu.Unlock()
	if e := l.slots[key]; e != nil {
		l.used.MoveToFront(e)
		return e.Value.(*slot)
	}
	if l.used.Len() >= limitSlots {
		last := l.used.Back()
		delete(l.slots, l.used.Remove(last).(*slot).key)
	}
	s := &slot{key, rate.NewLimiter(l.rate, l.burst)}
	l.slots[key] = l.used.PushFront(s)
	return s
}

// busy is the refusal of a client that asks too often.
type busy struct{ after time.Duration }

func (e *busy) Error() string {
	return fmt.Sprintf("too many requests; try again in %d s", e.seconds())
}

func (e *busy) seconds() int { return max(1, int(math.Ceil(e.after.Seconds()))) }

// limit counts the request for whoever makes it. One with a wrong credential is
// an address's.
func (c *call) limit() error {
	if c.Limits == nil || c.who.Via == access.ViaLocal {
		return nil
	}
	key := c.addressKey()
	if c.who.Via != access.ViaAnonymous {
		key = c.who.Via + " " + c.who.ID + " " + c.who.Name
	}
	r := c.Limits.of(key).limiter.Reserve()
	if d := r.Delay(); d > 0 {
		r.Cancel()
		return &busy{d}
	}
	return nil
}

// addressKey is the client's address; of IPv6 the network, of which everybody
// has as many addresses as he likes.
func (c *call) addressKey() string {
	a, err := netip.ParseAddr(c.from)
	if err == nil && a.Is6() {
		if p, err := a.WithZone("").Prefix(64); err == nil {
			return "address " + p.String()
		}
	}
	return "address " + c.from
}

// Proxies are those whose word on where a request comes from is taken.
type Proxies struct {
	Networks []netip.Prefix
	Socket   bool // and whoever reaches our socket
}

// Trusts tells whether a peer is one of them. Nil trusts nobody.
func (p *Proxies) Trusts(a netip.Addr) bool {
	if p == nil {
		return false
	}
	for _, n := range p.Networks {
		if n.Contains(a.Unmap()) {
			return true
		}
	}
	return false
}

// address is where a request comes from: the peer or, if that is a proxy of
// ours, the last address in X-Forwarded-For that is not one of our proxies.
// What stands before it anybody may have written.
func (p *Proxies) address(r *http.Request) string {
	peer, err := netip.ParseAddrPort(r.RemoteAddr)
	from := "local"
	if err == nil {
		from = peer.Addr().Unmap().WithZone("").String()
	}
	if p == nil || err != nil && !p.Socket || err == nil && !p.Trusts(peer.Addr()) {
		return from
	}
	hops := strings.Split(strings.Join(r.Header["X-Forwarded-For"], ","), ",")
	for i := len(hops) - 1; i >= 0; i-- {
		a, err := netip.ParseAddr(strings.TrimSpace(hops[i]))
		if err != nil {
			break
		}
		from = a.Unmap().WithZone("").String()
		if !p.Trusts(a) {
			break
		}
	}
	return from
}
