package api

import "github.com/distci/distci/lib/access"

// Route is a line of the interface, for the tests.
type Route struct {
	Method, Pattern string
	Role            access.Role
}

// Routes are all lines of the interface.
func Routes() (all []Route) {
	for _, r := range routes {
		all = append(all, Route{r.method, r.pattern, r.role})
	}
	return all
}
