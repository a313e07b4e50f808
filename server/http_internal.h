/* What http.c (listener, answers), http_links.c (connections), http_gate.c (who is let in),
 * http_api.c (what is answered) and http_stream.c share. */
#ifndef KD_SERVER_HTTP_INTERNAL_H
#define KD_SERVER_HTTP_INTERNAL_H

#include "access.h"
#include "http.h"

#include <jansson.h>
#include <microhttpd.h>

#define KD_HTTP_CONNECTIONS 64    /* open at once, of those that were let in */
#define KD_HTTP_STRANGERS 32      /* of others */
#define KD_HTTP_LINKS 128         /* of both, and those that were cut and are not yet closed */
#define KD_HTTP_STREAMS 16        /* live ones */
#define KD_HTTP_HEAD (16u << 10)  /* bytes of a request's line and header, and of buffers */
#define KD_HTTP_BODY (16u << 20)  /* bytes of an answer made in memory */
#define KD_HTTP_QUEUE (2u << 20)  /* bytes that wait for a stream's reader */
#define KD_HTTP_TIMEOUT_S 30      /* without a byte in or out */
#define KD_HTTP_STRANGER_MS 10000 /* from being accepted to being let in, or answered */
#define KD_HTTP_LOOP_MS 10000     /* the loop stands still: not healthy */
#define KD_HTTP_GUESSES 20        /* wrong tokens a second that are answered as such */
#define KD_HTTP_COOKIE "distill_session"

/* Who may ask. */
enum kd_http_role {
    KD_HTTP_PROBE,  /* anybody: says no more than that it runs */
    KD_HTTP_READER, /* who sees his own jobs at least; which ones is asked where they are told */
    KD_HTTP_ALL     /* who sees everybody's */
};

typedef struct kd_http_stream kd_http_stream;
typedef struct kd_http_request kd_http_request;

/* How a message is shown: as `distill ... -o json` does. */
typedef struct kd_http_form {
    const ProtobufCMessageDescriptor *message;
    json_t *(*json)(const void *message);
} kd_http_form;

typedef struct kd_http_route {
    const char *path; /* one segment may be `*`: a job, by its id or the beginning of it */
    enum kd_http_role role;
    /* On the loop: fills the answer. NULL: answered at once by `here`. */
    void (*answer)(kd_daemon *d, kd_http_request *r);
    void (*here)(kd_http_request *r);
    const kd_http_form *form; /* of the message that answers; NULL = it is no message */
} kd_http_route;

/* One request; its connection's thread owns it but for the time it is suspended, the loop then. */
struct kd_http_request {
    kd_http *http;
    struct MHD_Connection *connection;
    const kd_http_route *route;
    const char *path;     /* libmicrohttpd's, as long as the request */
    char job[KD_ID_TEXT]; /* from the path */
    uint64_t from, limit; /* from the query: ?from= and ?limit=, 0 = not given */
    bool head;
    int status;
    const char *type; /* of the content, static */
    kd_buf body;
    const kd_http_form *form; /* what body, a message, is shown by; NULL = it is shown as it is */
    bool more;                /* the loop has to be asked again, after others */
    unsigned piece;           /* how often it was */
    int fd;                   /* instead of a body, -1 = none */
    uint64_t size;
    kd_http_stream *stream;    /* likewise; a reference */
    char token[KD_TOKEN_TEXT]; /* the session it came with, "" = none was asked for */
    kd_pki_identity who;       /* its role and name; none without one */
    const char *location;      /* to be gone to, static; NULL = none */
    char cookie[256];          /* to be set, "" = none */
};

/* A connection, in the table of all. */
typedef struct kd_http_link {
    bool used;
    bool known;             /* its request was let in where not everybody is */
    bool cut;               /* and not yet closed */
    int fd;                 /* libmicrohttpd's */
    uint64_t network, turn; /* where it comes from; the order of coming */
    kd_time_ms since;
} kd_http_link;

typedef struct kd_http_links {
    pthread_mutex_t mu; /* guards all below */
    kd_http_link all[KD_HTTP_LINKS];
    size_t n_known;
    uint64_t turns;
    uint64_t n_cut; /* for want of room */
} kd_http_links;

struct kd_http {
    kd_daemon *daemon;
    struct MHD_Daemon *mhd; /* NULL: it could not be started again */
    struct sockaddr_storage address;
    bool tls;
    bool open;             /* everybody who reaches the address may read */
    kd_access_files files; /* that it shows, with tls */
    _Atomic kd_time_ms guess_second;
    atomic_int guesses;      /* wrong tokens of that second */
    atomic_int waiting;      /* requests that the loop has not answered yet */
    _Atomic kd_time_ms beat; /* the loop's last tick */
    _Atomic int ready;       /* enum kd_http_ready */
    pthread_mutex_t mu;      /* guards closing, with the queueing of a request */
    bool closing;
    kd_http_links links;
    /* the loop's */
    kd_http_stream *streams;
    size_t n_streams;
    kd_time_ms looked;
    bool looking;     /* what streams of the whole are to show is being made */
    kd_time_ms tried; /* to start the listener again */
};
enum kd_http_ready { KD_HTTP_STARTING, KD_HTTP_READY, KD_HTTP_NO_ROOM, KD_HTTP_STOPPING };

/* ---- http.c */
/* Fills r's answer with text; cut when it is too long. */
void kd_http_say(kd_http_request *r, int status, const char *type, const char *text);
/* An error for programs: {"error": text}. */
void kd_http_refuse(kd_http_request *r, int status, const char *text);

/* ---- http_gate.c */
/* The one place that decides whether a request is let in with the role its route wants; false: it
 * is refused, which is its answer and stands in the audit. */
bool kd_http_authorise(kd_http_request *r, enum kd_http_role role) KD_MUST_CHECK;
/* Refuses likewise, with 403, what the session may not see. */
void kd_http_forbid(kd_http_request *r, const char *why);
/* Whether the token is that of a session that goes on. */
bool kd_http_session_ok(kd_http *h, const char *token);
/* Whether he sees everybody's jobs, who is none where nobody has to say who he is. */
bool kd_http_sees_all(const kd_http *h, const kd_pki_identity *who);
/* GET /login?token=TOKEN: a cookie for a browser. */
void kd_http_login(kd_http_request *r);
bool kd_http_is_loopback(const struct sockaddr *a);
/* ADDRESS:PORT or [ADDRESS]:PORT. */
int kd_http_resolve(const char *listen, struct sockaddr_storage *out, kd_diag *diag) KD_MUST_CHECK;

/* ---- http_links.c */
/* libmicrohttpd's: a connection comes or goes. arg: the kd_http. */
void kd_http_link_notify(void *arg, struct MHD_Connection *connection, void **context,
                         enum MHD_ConnectionNotificationCode code);
/* A request that not everybody may make is let in; false: no room is left for its connection. */
bool kd_http_link_let_in(kd_http *h, struct MHD_Connection *connection);
/* The loop: cuts who takes too long. */
void kd_http_link_tick(kd_http *h, kd_time_ms now);

/* ---- http_api.c */
extern const kd_http_route kd_http_api[];
extern const size_t kd_http_n_api;

/* ---- http_json.c; any thread */
extern const kd_http_form kd_http_list, kd_http_workers, kd_http_detail, kd_http_info;
/* The packed message as JSON; the caller frees it. NULL with diag on failure. */
char *kd_http_json(const kd_http_form *form, const kd_buf *packed, kd_diag *diag);
/* Drops json and returns its text as `distill ... -o json` has it, in one line; the caller frees
 * it. NULL: no memory, or json is. */
char *kd_http_text(json_t *json);

/* ---- http_stream.c */
/* Loop. A stream of a job's events from r->from on, or (j NULL) of what the first page shows to who
 * asks. NULL when there are too many. The caller has one reference of two. */
kd_http_stream *kd_http_stream_new(kd_http_request *r, kd_job_record *j);
/* Connection's thread: the answer that lives as long as the stream; takes over the reference. */
struct MHD_Response *kd_http_stream_response(kd_http_stream *s, struct MHD_Connection *connection);
/* Its client is gone; drops that reference. */
void kd_http_stream_leave(kd_http_stream *s);
void kd_http_stream_tick(kd_http *h, kd_time_ms now);
void kd_http_stream_end_all(kd_http *h);

/* ---- assets */
typedef struct kd_http_asset {
    const char *path, *type, *etag;
    const unsigned char *bytes;
    size_t len;
} kd_http_asset;
extern const kd_http_asset kd_http_assets[];
extern const size_t kd_http_n_assets;

#endif
