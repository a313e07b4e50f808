#include "load.h"

#include "kd/hash.h"

#include <errno.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

/* What may stand in a name or path: no control characters, and nothing that YAML cannot hold as it
 * is, so that the resolved job reads back the same. libyaml has checked that it is UTF-8. */
static bool clean_text(const char *s, size_t len)
{
    const unsigned char *p = (const unsigned char *)s, *end = p + len;
    for (; p < end; p++) {
        if (*p < 0x20 || *p == 0x7f)
            return false;
        if (*p == 0xc2 && p + 1 < end && p[1] < 0xa0) /* U+0080 to U+009F */
            return false;
        if (*p == 0xe2 && p + 2 < end && p[1] == 0x80 && (p[2] == 0xa8 || p[2] == 0xa9))
            return false; /* line and paragraph separators */
        if (*p == 0xef && p + 2 < end &&
            ((p[1] == 0xbb && p[2] == 0xbf) || (p[1] == 0xbf && p[2] >= 0xbe)))
            return false; /* byte order mark, U+FFFE, U+FFFF */
    }
    return true;
}

static bool valid_name(const char *s, size_t len)
{
    for (size_t i = 0; i < len; i++) {
        char c = s[i];
        bool word = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9');
        if (!word && c != '.' && c != '_' && c != '-')
            return false;
    }
    return len > 0 && len < KD_JOB_NAME;
}

static bool valid_path(const char *s)
{
    if (s[0] == '/')
        return false;
    for (const char *p = s;; p++) {
        size_t n = strcspn(p, "/");
        if (n == 2 && p[0] == '.' && p[1] == '.')
            return false;
        p += n;
        if (!*p)
            return true;
    }
}

/* HOST:PORT; host a name, an IPv4 address, or an IPv6 one in brackets. */
static bool valid_address(const char *s)
{
    static const char name[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_";
    const char *colon = strrchr(s, ':');
    if (!colon || colon == s || strlen(s) > 255)
        return false;
    const size_t host = (size_t)(colon - s), digits = strspn(colon + 1, "0123456789");
    const bool bracketed = s[0] == '[';
    if (bracketed &&
        (host < 4 || s[host - 1] != ']' || strspn(s + 1, "0123456789abcdefABCDEF:.") != host - 2))
        return false;
    if (!bracketed && strspn(s, name) != host)
        return false;
    return digits > 0 && digits < 6 && !colon[1 + digits] && colon[1] != '0' &&
           strtol(colon + 1, NULL, 10) <= 65535;
}

/* Digits only, so that 010 (octal to some readers), 1_000, 0x10 and 1e3 are not guessed at. */
static bool read_int(const char *s, double lo, double hi, int64_t *out)
{
    const char *digits = s + (*s == '-' || *s == '+');
    size_t n = strspn(digits, "0123456789");
    if (n == 0 || n > 19 || digits[n] || (digits[0] == '0' && n > 1))
        return false;
    errno = 0;
    long long v = strtoll(s, NULL, 10);
    /* hi may be 2^63, which no int64_t reaches. */
    if (errno != 0 || (double)v < lo || (hi < 0x1p63 && (double)v > hi))
        return false;
    *out = v;
    return true;
}

/* 1, 0.5, .5, 1., 1e-5, 1.5E+3: also what YAML 1.1 would take for text (1e-5). */
static bool read_real(const char *s, const kd_key *k, double *out)
{
    const char *p = s + (*s == '-' || *s == '+');
    size_t whole = strspn(p, "0123456789"), part = 0;
    if (whole > 1 && p[0] == '0')
        return false;
    p += whole;
    if (*p == '.') {
        part = strspn(++p, "0123456789");
        p += part;
    }
    if (whole + part == 0 || strlen(s) > 64)
        return false;
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '-' || p[1] == '+');
        size_t n = strspn(p, "0123456789");
        if (n == 0)
            return false;
        p += n;
    }
    if (*p)
        return false;
    char *end;
    double v = strtod(s, &end) + 0.0; /* -0 becomes 0 */
    if (*end || !isfinite(v) || v < k->lo || v > k->hi ||
        (v == k->lo && k->flags & KD_KEY_LO_OPEN) || (v == k->hi && k->flags & KD_KEY_HI_OPEN))
        return false;
    *out = v;
    return true;
}

static bool store_text(char *field, size_t size, const char *s, size_t len)
{
    if (len >= size || !clean_text(s, len))
        return false;
    memset(field, 0, size);
    memcpy(field, s, len);
    return true;
}

bool kd_value_store(char *field, const kd_key *k, const char *s, size_t len, bool quoted)
{
    bool optional_text = k->def && !k->def[0] && len == 0;
    int64_t whole = 0;
    double real = 0;
    int choice = -1;
    bool yes = false;
    if (strlen(s) != len)
        return false; /* "\0" inside */
    switch (k->type) {
    case KD_KEY_NAME:
        return valid_name(s, len) && store_text(field, KD_JOB_NAME, s, len);
    case KD_KEY_PATH:
        return (len > 0 || optional_text) && store_text(field, KD_JOB_PATH, s, len) &&
               valid_path(field);
    case KD_KEY_FILE:
        return (len > 0 || optional_text) && store_text(field, KD_JOB_PATH, s, len);
    case KD_KEY_ADDRESS:
        return optional_text || (store_text(field, KD_JOB_PATH, s, len) && valid_address(field));
    case KD_KEY_DIGEST: {
        kd_digest digest;
        return optional_text ||
               (store_text(field, KD_DIGEST_HEX, s, len) && kd_digest_parse(field, &digest));
    }
    case KD_KEY_WORD:
        return kd_schema_choice(k->choices, s) >= 0 && store_text(field, KD_JOB_WORD, s, len);
    case KD_KEY_CHOICE:
    case KD_KEY_FLAG:
        choice = kd_schema_choice(k->choices, s);
        yes = choice == 1;
        if (choice >= 0 && k->type == KD_KEY_FLAG)
            memcpy(field, &yes, sizeof yes);
        else if (choice >= 0)
            memcpy(field, &choice, sizeof choice);
        return choice >= 0;
    case KD_KEY_BOOL:
        yes = strcmp(s, "true") == 0;
        if (quoted || (!yes && strcmp(s, "false") != 0))
            return false;
        memcpy(field, &yes, sizeof yes);
        return true;
    case KD_KEY_INT:
    case KD_KEY_VIEWS:
        if (k->type == KD_KEY_VIEWS && strcmp(s, "fresh") == 0)
            whole = 0;
        else if (k->choices && kd_schema_choice(k->choices, s) < 0)
            return false;
        else if (quoted || !read_int(s, k->lo, k->hi, &whole))
            return false;
        memcpy(field, &(int){(int)whole}, sizeof(int));
        return true;
    case KD_KEY_EDGE:
        if (strcmp(s, "same") == 0)
            whole = -1;
        else if (strcmp(s, "valid") != 0 && (quoted || !read_int(s, k->lo, k->hi, &whole)))
            return false;
        memcpy(field, &(int){(int)whole}, sizeof(int));
        return true;
    case KD_KEY_SEED:
        if (quoted || !read_int(s, k->lo, k->hi, &whole))
            return false;
        memcpy(field, &(uint64_t){(uint64_t)whole}, sizeof(uint64_t));
        return true;
    case KD_KEY_REAL:
        if (quoted || !read_real(s, k, &real))
            return false;
        memcpy(field, &real, sizeof real);
        return true;
    case KD_KEY_INTS:
        KD_BUG_ON(!read_int(s, k->lo, k->hi, &whole)); /* a default; lists are read elsewhere */
        memcpy(field, (int[]){(int)whole}, sizeof(int));
        memcpy(field + KD_INTS_MAX * sizeof(int), (int[]){1}, sizeof(int));
        return true;
    case KD_KEY_AUGMENT:
    case KD_KEY_LAYERS:
    case KD_KEY_COMPRESS:
    case KD_KEY_EXPORT:
    case KD_KEY_SWEEP:
    case KD_KEY_MAP:
        break;
    }
    return false;
}

bool kd_value_int(const yaml_node_t *n, const kd_key *k, int *out)
{
    int64_t v;
    if (n->type != YAML_SCALAR_NODE || n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE ||
        strlen((const char *)n->data.scalar.value) != n->data.scalar.length ||
        !read_int((const char *)n->data.scalar.value, k->lo, k->hi, &v))
        return false;
    *out = (int)v;
    return true;
}

bool kd_value_node(char *field, const kd_key *k, const yaml_node_t *n)
{
    return n->type == YAML_SCALAR_NODE && !kd_tree_is_null(n) &&
           kd_value_store(field, k, (const char *)n->data.scalar.value, n->data.scalar.length,
                          n->data.scalar.style != YAML_PLAIN_SCALAR_STYLE);
}
