# The text that a program prints for --help as a manual page: roff for man(7).
#
#   awk -v page=DISTILLD -v section=8 -v title="..." -v version=0.1.0 -v date=2026-01-31 \
#       -f help.awk TEXT...
#
# What is read of the text:
#   NAME [VERSION] - summary      first line: section NAME; of a later one: a new subsection
#   Usage: COMMAND                and lines indented by 7 or more that follow: the synopsis
#     TAG  text                   two blanks before it: an item, its text behind two blanks or more
#          more text              or on lines that are indented further
#   Word:                         alone on a line: a new section
#   KEY  DEFAULT  MEANING         the table of the job file's keys, by the columns of its heading
#   anything else                 paragraphs, lines that are indented without being items as they are

function escape(s) {
    gsub(/\\/, "\\e", s)
    gsub(/-/, "\\-", s)
    gsub(/`/, "\\(ga", s)
    gsub(/'/, "\\(aq", s)
    gsub(/"/, "\\(dq", s)
    return s
}
function quoted(s) { return "\"" escape(s) "\"" }
# Text in lines of at most 78 bytes, none of which is taken for a request.
function put(s,   n, i, w, line) {
    n = split(escape(s), w, " ")
    line = ""
    for (i = 1; i <= n; i++) {
        if (line != "" && length(line) + length(w[i]) >= 78) {
            print line
            line = ""
        }
        if (line == "" && w[i] ~ /^\./) w[i] = "\\&" w[i]
        line = line (line == "" ? "" : " ") w[i]
    }
    if (line != "") print line
}
function subsection(name) {
    print ".SS " quoted(name)
    parts++
    fresh = 1
    in_item = 0
}
function paragraph() {
    if (want_paragraph) print ".PP"
    want_paragraph = 0
}
function section_head(name) {
    if (name == current) return
    print ".SH " quoted(name)
    current = name
    want_paragraph = 0
    in_item = 0
}
function item(tag, text) {
    print ".TP"
    print ".B " escape(tag)
    put(text)
    in_item = 1
    want_paragraph = 0
}
function trim(s) {
    sub(/^ +/, "", s)
    sub(/ +$/, "", s)
    return s
}

BEGIN {
    print ".TH " quoted(page) " " section " \"" date "\" " quoted("distilld " version) " " quoted(title)
    print ".ad l"
    heads = 0
}

# A line of the head of a page or of a part of it.
/^[a-z][a-z-]*( [a-z0-9.-]+)? - / && (heads == 0 || blank) {
    dash = index($0, " - ")
    name = substr($0, 1, dash - 1)
    sub(/ [0-9][0-9.]*$/, "", name)
    if (heads++ == 0) {
        section_head("NAME")
        print escape(name) " \\- " escape(substr($0, dash + 3))
    } else {
        section_head("COMMANDS")
        subsection(name)
        put(substr($0, dash + 3) ".")
        fresh = 0
        want_paragraph = 1
    }
    blank = 0
    next
}

/^Usage: / {
    if (heads == 1 && !usage_told) {
        section_head("SYNOPSIS")
    } else if (FNR == 1) {
        # A text without a head is of a command of the program before it.
        section_head("COMMANDS")
        subsection(part_name($0))
    }
    if (usage_told && !fresh) print ".PP"
    usage_told = 1
    fresh = 0
    print ".nf"
    print ".B " escape(substr($0, 8))
    in_usage = 1
    in_item = 0
    blank = 0
    next
}
function part_name(line,   w) {
    split(line, w, " ")
    return w[2] " " w[3]
}
in_usage && /^       / {
    print ".B " escape(substr($0, 8))
    next
}
in_usage {
    print ".fi"
    in_usage = 0
    want_paragraph = 1
}

/^KEY +DEFAULT +MEANING/ {
    table = 1
    at_default = index($0, "DEFAULT")
    at_meaning = index($0, "MEANING")
    section_head("KEYS")
    next
}
table && /^    [^ ]/ {
    # An element of a list: its form, then what it does, perhaps on the next line.
    tag = $0
    text = ""
    if (length($0) > 44 && substr($0, 45, 1) == " ") {
        tag = substr($0, 1, 44)
        text = substr($0, 45)
    }
    if (!in_elements) print ".RS"
    in_elements = 1
    item(trim(tag), trim(text))
    next
}
table && /^     / {
    put(trim($0))
    next
}
table && in_elements {
    print ".RE"
    in_elements = 0
}
table && /^[a-z]/ {
    item(trim(substr($0, 1, at_default - 1)), trim(substr($0, at_meaning)))
    def = trim(substr($0, at_default, at_meaning - at_default))
    if (def == "required") print "Required."
    else if (def != "" && def != "none") put("Default: " def ".")
    next
}

/^$/ {
    want_paragraph = 1
    blank = 1
    next
}

/^[A-Z][A-Za-z ]*:$/ {
    name = toupper(substr($0, 1, length($0) - 1))
    if (current != "COMMANDS" || name ~ /^(GLOBAL FLAGS|EXIT CODES|MORE)$/)
        section_head(name == "EXIT CODES" ? "EXIT STATUS" : name == "FLAGS" ? "OPTIONS" : name)
    else {
        print ".PP"
        put($0)
    }
    blank = 0
    next
}

# An exit code of `distill help exit-codes`: a number to the right, then its meaning.
/^ +[0-9]+  / {
    code = trim($0)
    at = index(code, " ")
    item(substr(code, 1, at - 1), trim(substr(code, at)))
    blank = 0
    next
}

/^  [^ ]/ || /^      --/ {
    line = trim($0)
    if (heads == 1 && current == "SYNOPSIS") section_head("OPTIONS")
    at = match(line, /  +/)
    item(at ? substr(line, 1, at - 1) : line, at ? trim(substr(line, at)) : "")
    blank = 0
    next
}
in_item && /^    / {
    put(trim($0))
    blank = 0
    next
}

{
    if (current == "SYNOPSIS" || current == "NAME") section_head("DESCRIPTION")
    else if (!parts && sub(/^Exit codes: /, "")) section_head("EXIT STATUS")
    else if (in_item && blank) want_paragraph = 1
    in_item = 0
    paragraph()
    put($0)
    blank = 0
}

END {
    if (in_usage) print ".fi"
    if (in_elements) print ".RE"
}
