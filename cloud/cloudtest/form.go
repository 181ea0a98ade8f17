package cloudtest

import (
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
)

// form reads the parameters of a request. It remembers the first
// thing wrong and which parameters were asked for, so that those nobody knows
// are refused: a client's typing error must not pass silently.
type form struct {
	values url.Values
	known  map[string]bool
	api    formAPI
	err    error
}

// formAPI is what an API calls the mistakes in a form.
type formAPI struct {
	refuse                      func(code, message string) *Error
	missing, unknown, malformed string
}

func newForm(values url.Values) *form {
	return &form{values: values, known: map[string]bool{}, api: formAPI{refuse, "MissingParameter", "UnknownParameter", "InvalidParameterValue"}}
}

// done returns the first thing wrong with the request, if any.
func (f *form) done() error {
	if f.err != nil {
		return f.err
	}
	for _, key := range sortedKeys(f.values) {
		if !f.known[key] {
			return f.api.refuse(f.api.unknown, "The parameter "+key+" is not recognized")
		}
	}
	return nil
}

func (f *form) fail(err error) {
	if f.err == nil {
		f.err = err
	}
}

// text returns the parameter, "" when it is absent.
func (f *form) text(key string) string {
	f.known[key] = true
	return f.values.Get(key)
}

// required returns the parameter and complains when it is absent.
func (f *form) required(key string) string {
	v := f.text(key)
	if v == "" {
		f.fail(f.api.refuse(f.api.missing, "The request must contain the parameter "+key))
	}
	return v
}

// number returns the parameter, or absent when it is not there.
func (f *form) number(key string, absent int) int {
	v := f.text(key)
	if v == "" {
		return absent
	}
	n, err := strconv.Atoi(v)
	if err != nil {
		f.fail(f.api.refuse(f.api.malformed, fmt.Sprintf("Invalid value %q for %s", v, key)))
	}
	return n
}

// list returns key.1, key.2, ...
func (f *form) list(key string) []string {
	var out []string
	for n := 1; f.values.Has(index(key, n)); n++ {
		out = append(out, f.text(index(key, n)))
	}
	return out
}

// each calls read with the prefix of every element of a list of structures.
func (f *form) each(key string, read func(prefix string)) {
	for n := 1; f.hasUnder(index(key, n) + "."); n++ {
		read(index(key, n) + ".")
	}
}

func (f *form) hasUnder(prefix string) bool {
	for key := range f.values {
		if len(key) > len(prefix) && key[:len(prefix)] == prefix {
			return true
		}
	}
	return false
}

func index(key string, n int) string { return key + "." + strconv.Itoa(n) }

// permissions reads IpPermissions and TagSpecification into one record for each
// source.
func (f *form) permissions() []record {
	tags := map[string]string{}
	f.each("TagSpecification", func(p string) {
		if t := f.required(p + "ResourceType"); t != "security-group-rule" {
			f.fail(refuse("InvalidParameterValue", "'"+t+"' is not a valid taggable resource type for this operation."))
		}
		f.each(p+"Tag", func(p string) { tags[f.required(p+"Key")] = f.text(p + "Value") })
	})
	var out []record
	f.each("IpPermissions", func(p string) {
		base := record{
			protocol: f.required(p + "IpProtocol"),
			from:     f.number(p+"FromPort", -1), to: f.number(p+"ToPort", -1),
			tags: tags,
		}
		source := func(list string, set func(r *record, p string)) {
			f.each(p+list, func(p string) {
				r := base
				r.description = f.text(p + "Description")
				set(&r, p)
				out = append(out, r)
			})
		}
		source("IpRanges", func(r *record, p string) { r.source = f.prefix(p + "CidrIp") })
		source("Ipv6Ranges", func(r *record, p string) { r.source = f.prefix(p + "CidrIpv6") })
		source("Groups", func(r *record, p string) {
			r.groupSource, r.groupOwner = f.required(p+"GroupId"), f.text(p+"UserId")
		})
		source("PrefixListIds", func(r *record, p string) { r.prefixList = f.required(p + "PrefixListId") })
	})
	if len(out) == 0 {
		f.fail(refuse("MissingParameter", "The request must contain the parameter ipPermissions"))
	}
	return out
}

func (f *form) prefix(key string) netip.Prefix {
	text := f.required(key)
	p, err := netip.ParsePrefix(text)
	if err != nil || p.Addr().Is4() != (key[len(key)-len("CidrIp"):] == "CidrIp") {
		f.fail(refuse("InvalidParameterValue", "CIDR block "+text+" is malformed"))
	}
	return p
}

// filters reads Filter.N; names lists those that the action knows, "tag:" for any that
// begins so.
func (f *form) filters(names ...string) map[string][]string {
	out := map[string][]string{}
	f.each("Filter", func(p string) {
		name := f.required(p + "Name")
		known := func(n string) bool { return n == name || strings.HasSuffix(n, ":") && strings.HasPrefix(name, n) }
		if !slices.ContainsFunc(names, known) {
			f.fail(refuse("InvalidParameterValue", "The filter '"+name+"' is invalid"))
		}
		out[name] = f.list(p + "Value")
	})
	return out
}
