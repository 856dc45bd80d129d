package api

import (
	"net/http"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/fault"
	"github.com/distci/distci/lib/repo"
)

// newCall is a call of somebody who is not known yet.
func (s *server) newCall(w http.ResponseWriter, r *http.Request) *call {
	c := &call{server: s, w: w, r: r, from: s.Proxies.address(r)}
	c.setWho(access.Anonymous(""))
	// A request may have a Content-Length besides, which net/http overlooks, and
	// a proxy may have gone by that: then what follows here, and is another
	// request for us, was no request for the proxy (RFC 9112, 6.1).
	if r.ProtoMajor == 1 && len(r.TransferEncoding) > 0 {
		w.Header().Set("Connection", "close")
	}
	if r.TLS != nil { // a browser that was here once does not come without any more
		w.Header().Set("Strict-Transport-Security", "max-age=31536000")
	}
	return c
}

// deny refuses what a browser was made to do by a page of another site.
func (s *server) deny(w http.ResponseWriter, r *http.Request) {
	c := s.newCall(w, r)
	defer c.audit(route{method: r.Method})
	c.fail(status(http.StatusForbidden, "a page of another site may not do this"))
}

// authorize finds out whose the call is and whether he may use the route. It is
// the one place where roles are enforced; what a handler has to see to by
// itself is which jobs are in a list, and whose a ticket is: see sees.
func (c *call) authorize(rt route) error {
	var err error
	if rt.role != access.Public { // of which no credential is looked at
		err = c.identify()
	}
	if e := c.limit(); e != nil {
		return e
	}
	if err != nil || rt.role == access.Public {
		return err
	}
	if err = c.may(rt, c.who); err == nil && c.Access != nil {
		recorderOf(c.w).recheck(c.still(rt))
	}
	if err != nil && c.who.Via == access.ViaAnonymous && fault.Of(err) == fault.Denied {
		return access.Unauthenticated("this needs the role " + string(rt.role) + "; who you are is not known")
	}
	return err
}

// may returns nil if p may use the route for the call's job. Of a job that he
// has nothing to do with it is none of his business whether it is there.
func (c *call) may(rt route, p access.Principal) error {
	err := p.May(rt.role, "")
	switch {
	case err != nil || c.job == "" || p.Sees(c.job):
		return err
	case rt.method == http.MethodGet:
		return repo.ErrNoJob
	}
	return p.May(rt.role, c.job)
}

// still returns what finds out whether the caller may still be told: a log is
// followed for days, and his token may be revoked meanwhile. While that cannot
// be found out he is told.
func (c *call) still(rt route) func() error {
	r := c.r
	return func() error {
		p, _, err := c.Access.Authenticate(r)
		if err == nil {
			err = c.may(rt, p)
		}
		if k := fault.Of(err); k == fault.Temporary || k == fault.Interrupted || k == fault.Internal {
			return nil
		}
		return err
	}
}

// identify finds out whose the call is. Without access control it is whoever
// can reach us.
func (c *call) identify() error {
	if c.Access == nil {
		c.setWho(access.Local())
		return nil
	}
	p, ok, err := c.Access.Authenticate(c.r)
	if err != nil {
		return err
	}
	if ok {
		c.setWho(p)
	}
	return nil
}

// setWho is for those as well that find out by themselves, by a signature.
func (c *call) setWho(p access.Principal) {
	c.who = p
	rec := recorderOf(c.w)
	rec.who, rec.from = p.Via+" "+p.Name, c.from
	c.r = c.r.WithContext(access.NewContext(c.r.Context(), p))
}

// sees tells whether the call may be told of a job. "" is for what belongs to
// no job.
func (c *call) sees(job string) bool { return c.who.Sees(job) }

// challenge is what goes with status 401 (RFC 6750).
func (c *call) challenge() string {
	if c.r.Header.Get("Authorization") != "" {
		return `Bearer realm="distci", error="invalid_token"`
	}
	return `Bearer realm="distci"`
}
