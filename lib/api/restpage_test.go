package api

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
)

var rewrite = flag.Bool("rewrite", false, "write distci-rest(7) anew")

const restPage = "../../man/distci-rest.7"

// TestRestPage: distci-rest(7) is what openapi.yaml says now.
func TestRestPage(t *testing.T) {
	doc, err := openapi3.NewLoader().LoadFromData(OpenAPI())
	if err != nil {
		t.Fatal(err)
	}
	want := renderPage(doc)
	if *rewrite {
		if err := os.WriteFile(restPage, want, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	got, err := os.ReadFile(restPage)
	if err != nil || !bytes.Equal(got, want) {
		t.Errorf("%s is not of this openapi.yaml, %v; make it anew: go test ./lib/api -run TestRestPage -rewrite", restPage, err)
	}
}

// renderPage makes the manual page of a description.
func renderPage(doc *openapi3.T) []byte {
	var b bytes.Buffer
	b.WriteString(`.\" Made from lib/api/openapi.yaml; see there.
.Dd November 21, 2026
.Dt DISTCI-REST 7
.Os DistCI
.Sh NAME
.Nm distci-rest
.Nd the REST interface of a frontend
.Sh DESCRIPTION
`)
	prose(&b, doc.Info.Description)
	b.WriteString(".Pp\nThe same in OpenAPI 3 is at\n.Pa /openapi.yaml\nof every frontend.\nBehind each request stand the role that it needs and the statuses of its replies.\n")
	for _, tag := range doc.Tags {
		fmt.Fprintf(&b, ".Sh %s\n%s.\n.Bl -tag -width Ds\n", strings.ToUpper(tag.Name), quoted(tag.Description))
		paths := doc.Paths.Map()
		for _, path := range sortedKeys(paths) {
			for _, method := range []string{"GET", "POST", "PUT", "DELETE"} {
				if op := paths[path].GetOperation(method); op != nil && op.Tags[0] == tag.Name {
					operation(&b, method, path, op)
				}
			}
		}
		b.WriteString(".El\n")
	}
	b.WriteString(".Sh EVENTS\n")
	prose(&b, doc.Components.Schemas["Stream"].Value.Description)
	b.WriteString(".Sh SEE ALSO\n.Xr distci-buildctl 1 ,\n.Xr distci-ticket 5 ,\n.Xr distci-frontend 8\n")
	return b.Bytes()
}

func operation(b *bytes.Buffer, method, path string, op *openapi3.Operation) {
	codes := sortedKeys(op.Responses.Map())
	fmt.Fprintf(b, ".It Cm %s Pa %s\n%s.\n", method, quoted(path), quoted(op.Summary))
	prose(b, op.Description)
	var params []string
	for _, p := range op.Parameters {
		if v := p.Value; v.In != "path" {
			params = append(params, fmt.Sprintf(".It Ar %s\n%s\n", quoted(v.Name), quoted(strings.TrimSuffix(v.Description, ".")+".")))
		}
	}
	if len(params) > 0 {
		fmt.Fprintf(b, ".Bl -tag -width Ds -compact\n%s.El\n", strings.Join(params, ""))
	}
	fmt.Fprintf(b, "Role %s; %s.\n", op.Extensions["x-role"], strings.Join(codes, ", "))
}

// prose writes lines of text, each a sentence or more.
func prose(b *bytes.Buffer, text string) {
	for line := range strings.SplitSeq(strings.TrimSpace(text), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			// One sentence a line, as mdoc has it.
			b.WriteString(strings.ReplaceAll(quoted(line), ". ", ".\n") + "\n")
		}
	}
}

// quoted keeps mdoc from taking text for more than text.
func quoted(s string) string {
	s = strings.ReplaceAll(s, `\`, `\e`)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

func sortedKeys[V any](m map[string]V) []string {
	keys := make([]string, 0, len(m))
	for k := range m {
		keys = append(keys, k)
	}
	slices.Sort(keys)
	return keys
}
