package api

import (
	"net/http"

	"github.com/distci/distci/lib/access"
	"github.com/distci/distci/lib/repo"
)

// authorize finds out whose the call is and whether he may use the route. It is
// the one place where roles are enforced; what a handler has to see to by
// itself is which jobs are in a list, and whose a ticket is: see sees.
func (c *call) authorize(rt route) error {
	if rt.role == access.Public { // no credential is looked at, so none is looked up
		c.setWho(access.Anonymous(""))
		return nil
	}
	if err := c.identify(); err != nil {
		return err
	}
	err := c.who.May(rt.role, "")
	if err == nil && c.job != "" && !c.who.Sees(c.job) {
		if rt.method == http.MethodGet {
			return repo.ErrNoJob // whether it is there is none of his business
		}
		err = c.who.May(rt.role, c.job)
	}
	if err != nil && c.who.Via == access.ViaAnonymous {
		return access.Unauthenticated("this needs the role " + string(rt.role) + "; who you are is not known")
	}
	return err
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
	if !ok {
		p = access.Anonymous("")
	}
	c.setWho(p)
	return nil
}

// setWho is for those as well that find out by themselves, by a signature.
func (c *call) setWho(p access.Principal) {
	c.who = p
	c.r = c.r.WithContext(access.NewContext(c.r.Context(), p))
}

// sees tells whether the call may be told of a job. "" is for what belongs to
// no job.
func (c *call) sees(job string) bool { return c.who.Sees(job) }
