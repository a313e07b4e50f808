/* Every bound on what may come over the wire, in one place, with its memory bill. */
#ifndef KD_WIRE_LIMITS_H
#define KD_WIRE_LIMITS_H

#ifndef KD_PROTOCOL    /* but in programs of tests that stand for another version */
#define KD_PROTOCOL 3u /* a worker with another number is refused at join */
#endif

#define KD_MAX_CONTROL_BYTES (1u << 20) /* any message without payload */
#define KD_MAX_BULK_BYTES (5u << 20)    /* any message with payload: payload + 1 MiB */
#define KD_MAX_PAYLOAD_BYTES (4u << 20) /* slice with two Adam vectors: 3 x 1 MiB chunk */
#define KD_MAX_UNPACK_BYTES (16u << 20) /* memory one unpacked message may take */
#define KD_MAX_STRING 65536u            /* any string unless the table in wire.c says otherwise */
#define KD_MAX_REPEATED 65536u          /* any repeated field, likewise */
#define KD_MAX_JOB_TEXT (256u << 10)    /* job file, and JSON made from it */
#define KD_MAX_SWEEP_JOBS 256u          /* children of a sweep */
#define KD_MAX_LABEL 1024u              /* what a child of a sweep is told apart by */
#define KD_MAX_NAMED_WORKERS 64u        /* of a job that are slow or quarantined */
#define KD_MAX_DIGESTS 12288u           /* of one answer */
#define KD_MAX_METADATA (512u << 10)    /* JSON of a network's structure and classes */
#define KD_MAX_BLOB_BYTES (4ull << 30)  /* uploaded weights */
#define KD_BLOB_PIECE (1u << 20)        /* payload of one BlobChunk */
#define KD_MAX_PEM 16384u               /* a certificate, a request for one */
#define KD_MAX_ACCESS_ROWS 1000u        /* tokens, certificates or audit entries of one answer */
#define KD_MAX_BANKS 1000u              /* of one answer */
#define KD_MAX_BANK_JOBS 64u            /* that an answer names of a bank */
#define KD_MAX_CHECKPOINTS 1024u        /* of one answer */
#define KD_MAX_STATUS_TEXT 900u         /* gRPC status details travel in 8 KiB of headers */
#define KD_MAX_STATE_VECTORS 3          /* of the optimiser: Adam's two, a moving average */
#define KD_MAX_ARTEFACT_BYTES (256ull << 20) /* a file that a worker makes */
#define KD_MAX_CHUNK_FLOATS (1u << 18)       /* 1 MiB a chunk */
#define KD_MIN_CHUNK_FLOATS (1u << 12)
/* How a worker cuts a vector: about sixteen chunks, so that several workers have a share, of no
 * less than 128 KiB, since a call costs as much as moving so much. */
static inline uint32_t kd_chunk_floats(uint64_t floats)
{
    uint64_t want = (floats + 15) / 16, chunk = 1u << 15;
    while (chunk < want && chunk < KD_MAX_CHUNK_FLOATS)
        chunk *= 2;
    return (uint32_t)chunk;
}
#define KD_MAX_SLOTS 1024u
#define KD_MAX_JOURNAL_BYTES (1ull << 30) /* sums since a checkpoint; one is made at half of it */
#define KD_MAX_VECTOR_FLOATS (1ull << 28) /* 1 GiB of parameters */
#define KD_MAX_TENSOR_FLOATS (1u << 26)   /* 256 MiB: one tensor of the inference protocol */
#define KD_MAX_TENSORS 16u                /* of one of its messages; a tensor's dimensions, too */
#define KD_MAX_TENSOR_NAME 256u
#define KD_MAX_MODELS 64u /* of a job, whose costs one message tells */
#define KD_MAX_TRIED 24u  /* stages of a job that a worker tries */
#define KD_MAX_CLASSES 65536u
#define KD_MAX_EPOCH_TERMS 8                  /* terms of a loss whose sums an epoch stores */
#define KD_TERM_SUMS (2 * KD_MAX_EPOCH_TERMS) /* NodeChunk.terms: value and pull of each */
#define KD_EVAL_COLUMNS 5 /* of GatherChunk: class, true class, loss, teacher's class, KL */
#define KD_EVAL_UNIT 32u  /* samples of one evaluation unit */

/* One pair for both ends: the client pings less often than the server allows. */
#define KD_KEEPALIVE_MS 5000
#define KD_KEEPALIVE_TIMEOUT_MS 4000
#define KD_SERVER_MIN_PING_MS 2000

#endif
