package api

import (
	"context"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

// TestDescription: the table of routes and openapi.yaml have the same paths,
// methods and roles.
func TestDescription(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(context.Background()); err != nil {
		t.Error(err)
	}
	there := map[string]string{}
	for path, item := range doc.Paths.Map() {
		for method, op := range item.Operations() {
			role, _ := op.Extensions["x-role"].(string)
			there[method+" "+path] = role
			public := op.Security != nil && len(*op.Security) == 0
			if public != (role == "public") || op.Summary == "" || len(op.Tags) != 1 {
				t.Errorf("%s %s: security, summary or tag are not as they should be", method, path)
			}
			for code, r := range op.Responses.Map() {
				original := route{pattern: strings.TrimPrefix(path, "/")}.original()
				if code >= "400" && code != "412" && code != "416" && r.Value.Content["text/plain"] != nil != original {
					t.Errorf("%s %s: an error %s of another kind than the original's route has: %v", method, path, code, original)
				}
			}
		}
	}
	for _, rt := range routes {
		name := rt.method + " /" + rt.pattern
		if role, ok := there[name]; !ok || role != string(rt.role) {
			t.Errorf("%s needs the role %q; openapi.yaml says %q", name, rt.role, role)
		}
		delete(there, name)
	}
	if len(there) > 0 {
		t.Errorf("openapi.yaml has what is not served: %v", slices.Sorted(maps.Keys(there)))
	}
}
