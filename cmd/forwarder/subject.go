package main

import (
	"fmt"
	"slices"
	"strings"
)

// subject returns the subject for the messages of a topic: prefix and the escaped topic.
// Letters, digits, _, -, and a dot between two bytes that are not dots stay as they are.
// Every other byte, % too, is written as % and two hexadecimal digits. So no two topics have
// the same subject. The engine accepts each subject: none has an empty token, white space or
// a wildcard.
func subject(prefix, topic string) string {
	escaped := []byte(prefix)
	for i := range len(topic) {
		b := topic[i]
		isInner := i > 0 && i < len(topic)-1 && topic[i-1] != '.' && topic[i+1] != '.'
		switch {
		case 'a' <= b && b <= 'z', 'A' <= b && b <= 'Z', '0' <= b && b <= '9',
			b == '_', b == '-', b == '.' && isInner:
			escaped = append(escaped, b)
		default:
			escaped = fmt.Appendf(escaped, "%%%02X", b)
		}
	}
	return string(escaped)
}

// covers reports whether pattern, a subject with wildcards, matches every subject that
// starts with prefix.
func covers(pattern, prefix string) bool {
	before, isOpen := strings.CutSuffix("."+pattern, ".>")
	tokens, wanted := strings.Split(before, "."), strings.Split("."+prefix, ".")
	return isOpen && len(tokens) < len(wanted) &&
		slices.EqualFunc(tokens, wanted[:len(tokens)], func(token, want string) bool {
			return token == want || token == "*"
		})
}
