package api

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"html/template"
	"strconv"
)

// signInPage is a page with one thing to say.
type signInPage struct {
	Title, Text string
	Link, Label string // "": none
	Request     string // its id, for whoever is asked for help
}

const signInStyle = `:root{color-scheme:light dark}body{font:1rem/1.5 system-ui,sans-serif;max-width:36rem;margin:4rem auto;padding:0 1rem}small{opacity:.75}`

var signInTemplate = template.Must(template.New("").Parse(`<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{{.Title}} – DistCI</title>
<style>` + signInStyle + `</style>
<main>
<h1>{{.Title}}</h1>
<p>{{.Text}}</p>
{{with .Link}}<p><a href="{{.}}">{{$.Label}}</a></p>
{{end}}{{with .Request}}<p><small>Request {{.}}</small></p>
{{end}}</main>
</html>
`))

// page sends a page that runs nothing and loads nothing.
func (c *call) page(code int, p signInPage) error {
	var b bytes.Buffer
	if err := signInTemplate.Execute(&b, p); err != nil {
		return err
	}
	style := sha256.Sum256([]byte(signInStyle))
	h := c.w.Header()
	h.Set("Content-Type", "text/html; charset=utf-8")
	h.Set("Content-Security-Policy", "default-src 'none'; style-src 'sha256-"+base64.StdEncoding.EncodeToString(style[:])+"'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'")
	h.Set("Referrer-Policy", "no-referrer") // what the provider has sent is in the address
	h.Set("Content-Length", strconv.Itoa(b.Len()))
	c.w.WriteHeader(code)
	_, err := c.w.Write(b.Bytes())
	return gone(err)
}
