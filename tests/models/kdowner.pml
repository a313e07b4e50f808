/* Shard owners (docs/protocol.md): workers own chunks of the parameter vector with their optimiser state; the
 * coordinator sums gradients, journals the sums, answers the owners, caches the slices and hands them on.
 *
 * Reduced to: 2 workers, 2 chunks, versions 1..NS, one unit a step, whose push is atomic a chunk (the tree and the
 * races of pushes are kdstep.pml's). Whoever holds something has a LABEL (the version it believes it has) and a
 * VALUE (v stands for the bits of the fault-free version v, BAD for any others). The mechanism reads labels only,
 * assertions read values.
 *
 * Faults, by budget: BW a worker loses its memory and starts again empty; BC the coordinator dies, and its journal
 * keeps any prefix of each chunk's sums; BZ a live member is declared lost (zombie); BM a chunk moves to the other
 * member (resize); BN a sum or slice is lost or delivered twice. Who was lost joins again, at a border between steps
 * or at once where nobody else is left. Generation numbers are kept as what is asked of them: gok is "its generation
 * >= owner_generation of the chunk", news "there is a newer one". What a fence would refuse on arrival is not sent,
 * or taken away when the fence falls.
 *
 * P1 who computes on version t holds exactly version t      P2 a slice taken as version t is version t
 * P3 a manifest names slices of one version                 P4 no version that is to be saved is passed over
 * P5 the journal never ends before T                        P6 a chunk can be rebuilt up to T at any time
 * Progress: no invalid end state; -DLIVE: the job always ends.
 *
 * Mutants and options, and what is expected of each: run.sh. */
#ifndef NS
#define NS 3 /* last version; version 1 is in the manifest that the job starts from */
#endif
#ifndef CK
#define CK 2 /* versions divisible by CK, and the last, are evaluated and saved */
#endif
#ifndef BW
#define BW 0
#endif
#ifndef BC
#define BC 0
#endif
#ifndef BZ
#define BZ 0
#endif
#ifndef BM
#define BM 0
#endif
#ifndef BN
#define BN 0
#endif
/* Messages stay under way for any time where that can make a difference; else they arrive at once. */
#if BN > 0 || defined(NO_FENCE) || defined(FENCE_ALL) || defined(OLD_ANSWER)
#define FLIGHT
#endif
#define NONE      2
#define BAD       99
#define I(w, c)   ((w) * 2 + (c))
#define MIN(a, b) ((a) < (b) -> (a) : (b))
#define MAX(a, b) ((a) > (b) -> (a) : (b))
#define WANT(v)   ((v) % CK == 0 || (v) >= NS)
#define NEXTWANT  (WANT(ck + 1) -> ck + 1 : (WANT(ck + 2) -> ck + 2 : ck + 3))

/* on disk: the manifest's version and the values in its files; sums of the steps [ck, jend) */
byte ck = 1, ckv[2] = 1, jend[2] = 1;
/* coordinator, volatile */
bool up = true, formed;          /* formed: has members and owners again since its start */
byte T;                          /* gradients are collected for this version */
bool cb[2]; byte bv[2];          /* slices of version T in the cache, their values */
bool pub[2]; byte pv[2];         /* slices of version T+1 in the cache */
byte owner[2] = NONE;
bool mem[2], hi[2], lost[2];     /* members; who said Hello and waits to be taken in; whose stream has closed */
byte uw = NONE;                  /* who has the step's unit */
byte fil[2], filv[2];            /* slices with state that wait to be the next manifest: version, value */
/* workers */
bool told[2], news[2];           /* knows a generation; there is a newer one */
bool gok[4];                     /* its generation >= owner_generation of the chunk */
bool has[4]; byte os[4], ov[4];  /* owned chunk: label, value */
byte pl[4];                      /* newest version it has published, or need not, under this grant */
byte pstep[2], pval[4];          /* whole version in use: label, values */
byte tgt[2], nv[4]; bool nx[4];  /* version being assembled beside it */
bool done;
byte bW = BW, bC = BC, bZ = BZ, bM = BM, bN = BN;
/* under way, one of each kind a worker */
bool bf[2], bo[2]; byte bs[2], bk[2], bl[2]; /* slice: there is one, with optimiser state; version, chunk, value */
bool sf[2]; byte ss[2], sc[2];        /* sum: there is one; step, chunk */

/* ---- the rules, and the mutants that break them */
#ifdef SENDFIRST /* a sum leaves before it is journalled, and is journalled some time */
byte ram[2];
#define RED(c)  (jend[c] > T || ram[c] > T)
#define END(c)  MAX(jend[c], ram[c])
#define MADE(c) ram[c] = T + 1
#else
#define RED(c)  (jend[c] > T) /* the sum of T is there: made now, or preloaded from the journal */
#define END(c)  jend[c]
#define MADE(c) jend[c] = T + 1
#endif
#ifdef DROP_EARLY /* the journal below a version goes when its slices are in, not when the manifest names it */
byte jbase = 1;
#else
#define jbase ck
#endif
#ifdef NO_FENCE
#define FENCED(w, c) false
#else
#define FENCED(w, c) (!gok[I(w,c)])
#endif
#ifdef FENCE_ALL /* one generation for all chunks, and survivors do not publish again */
#define OLDGEN(w) news[w]
#else
#define OLDGEN(w) false
#endif
#if defined(NO_PUBSTEP)
#define VEROK(s, c) true
#elif defined(SUMCHK) /* a slice counts only when its sum is there */
#define VEROK(s, c) ((s) == T + 1 && RED(c))
#else
#define VEROK(s, c) ((s) == T + 1)
#endif
#ifdef NO_APPLYCHK
#define APPLYOK(s, o) true
#else
#define APPLYOK(s, o) ((s) == (o))
#endif
#ifdef APPLY_UNACKED
#define ACKED(w, c) true
#else
#define ACKED(w, c) (!(bf[w] && bk[w] == c)) /* what it published of this chunk has been answered */
#endif
#ifdef GATE /* sums leave when all chunks of T are summed (clipping by the global norm) */
#define ALLRED (RED(0) && RED(1))
#else
#define ALLRED true
#endif
#ifdef NO_ROOM
#define ROOM true
#else /* at most one set of slices waits to be the manifest: a step that leads to another one waits for it */
#define ROOM (!WANT(T + 1) || NEXTWANT == T + 1)
#endif
#ifdef NO_OLDSUM /* sums of steps before T are not answered from the journal */
#define SUMOK(c, s) ((s) == T && RED(c) && ALLRED && ROOM)
#else
#define SUMOK(c, s) ((s) >= jbase && END(c) > (s) && ((s) < T || ((s) == T && ALLRED && ROOM)))
#endif
/* A chunk under a new grant is kept if the journal brings it to T, or if it is one ahead and nothing is lost by that:
 * version T of it is still in use here and can go to the cache, its sum is in the journal, T need not be saved. */
#define MUSTSAVE (T > ck && WANT(T))
#ifdef KEEP_NOBASE
#define KEEP_A true
#else
#define KEEP_A (pstep[w] == T)
#endif
#ifdef KEEP_NOSUM
#define KEEP_B true
#else
#define KEEP_B RED(c)
#endif
#ifdef KEEP_NOSAVE
#define KEEP_C true
#else
#define KEEP_C (!MUSTSAVE)
#endif
#ifdef NOREBUILD
#define KEEP(label) true
#else
#define KEEP(label) ((label) >= ck && ((label) <= T || ((label) == T + 1 && KEEP_A && KEEP_B && KEEP_C)))
#endif
/* a new manifest has overtaken a rebuild: the sums that it needs are gone, so it begins again from there */
#ifdef NORESTART
#define OVERTAKEN(w, c) false
#else
#define OVERTAKEN(w, c) (has[I(w,c)] && os[I(w,c)] < ck)
#endif
#ifdef ODD /* who is declared lost here is so because its numbers are wrong; it starts again before it comes back */
bool odd[2];
#define ODDNOW(w) odd[w] = 1; ov[I(w,0)] = BAD; ov[I(w,1)] = BAD; pval[I(w,0)] = BAD; pval[I(w,1)] = BAD; \
  nv[I(w,0)] = BAD; nv[I(w,1)] = BAD
#define ISODD(w) odd[w]
#define SOBER(w) if :: odd[w] -> odd[w] = 0; die(w); lost[w] = 0 :: else fi
#else
#define ODDNOW(w) skip
#define ISODD(w)  false
#define SOBER(w)  skip
#endif

/* ---- coordinator */
inline clear_step() { pub[0] = 0; pub[1] = 0; pv[0] = 0; pv[1] = 0 }
inline no_slice(w) { bf[w] = 0; bo[w] = 0; bs[w] = 0; bk[w] = 0; bl[w] = 0 }
inline no_sum(w) { sf[w] = 0; ss[w] = 0; sc[w] = 0 }
inline fence(c) {
  gok[I(0,c)] = 0; gok[I(1,c)] = 0;
#ifndef NO_FENCE
#ifndef NO_REPUB
  pl[I(0,c)] = 0; pl[I(1,c)] = 0;
#endif
  if :: bk[0] == c -> no_slice(0) :: else fi;
  if :: bk[1] == c -> no_slice(1) :: else fi;
#endif
#ifndef OLD_ANSWER
  if :: sc[0] == c -> no_sum(0) :: else fi;
  if :: sc[1] == c -> no_sum(1) :: else fi;
#endif
}
inline new_gen() {
  news[0] = 1; news[1] = 1;
#ifdef FENCE_ALL
  no_slice(0); no_slice(1);
#endif
}
inline grant(c, w) { owner[c] = w; fence(c) }
#define HEIR(w) (mem[1-(w)] -> 1-(w) : NONE)
inline lose(w) { /* its chunks and its unit go to who is left, in the same step */
  mem[w] = 0; new_gen();
  if :: owner[0] == w -> grant(0, HEIR(w)) :: else fi;
  if :: owner[1] == w -> grant(1, HEIR(w)) :: else fi;
#ifndef LOSTUNITS
  if :: uw == w -> uw = HEIR(w) :: else fi
#endif
}
inline join(w) { /* with any share of the chunks and the unit, or all if there is nobody else */
  mem[w] = 1; hi[w] = 0; new_gen();
  if :: owner[0] == NONE || mem[1-w] -> grant(0, w) :: owner[0] < NONE -> skip fi;
  if :: owner[1] == NONE || mem[1-w] -> grant(1, w) :: owner[1] < NONE -> skip fi;
  if :: uw == NONE || mem[1-w] -> uw = w :: uw < NONE -> skip fi }
inline border() { /* between two steps who waits is taken in, and chunks move */
  if :: hi[0] -> join(0) :: else fi;
  if :: hi[1] -> join(1) :: else fi;
  if :: bM > 0 && mem[0] && mem[1] -> bM--; new_gen(); grant(0, 1 - owner[0])
     :: bM > 0 && mem[0] && mem[1] -> bM--; new_gen(); grant(1, 1 - owner[1])
     :: true
  fi }
inline take_slice(w) {
  if :: up && formed && !OLDGEN(w) && VEROK(bs[w], bk[w]) && !pub[bk[w]] ->
          assert(bl[w] == T + 1);                                             /* P2 */
          pub[bk[w]] = 1; pv[bk[w]] = bl[w];
          if :: WANT(T + 1) -> fil[bk[w]] = T + 1; filv[bk[w]] = (bo[w] -> bl[w] : BAD) :: else fi;
#ifdef CACHE_DROP
          cb[0] = 0; cb[1] = 0; bv[0] = 0; bv[1] = 0;
#endif
          if :: pub[0] && pub[1] ->                                           /* the commit of a step */
                  T++; cb[0] = 1; cb[1] = 1; bv[0] = pv[0]; bv[1] = pv[1]; clear_step();
#ifdef DROP_EARLY
                  if :: WANT(T) -> jbase = T :: else fi;
#endif
                  border()
             :: else fi
     :: up && formed && !OLDGEN(w) && bs[w] == T && !cb[bk[w]] ->             /* version T, after a restart */
          assert(bl[w] == T);                                                 /* P2 */
          cb[bk[w]] = 1; bv[bk[w]] = bl[w];
          if :: MUSTSAVE -> fil[bk[w]] = T; filv[bk[w]] = (bo[w] -> bl[w] : BAD) :: else fi
     :: else fi;
  if :: bN > 0 -> bN-- :: no_slice(w) fi }
/* the journal and the manifest decide where the job goes on; nobody is asked */
inline restart() {
  new_gen(); up = 1;
#ifdef MAXJ
  T = MAX(jend[0], jend[1]);
#else
  T = MIN(jend[0], jend[1]);
#endif
#ifndef SKIPWANT
  T = MIN(T, NEXTWANT);
#endif
#ifndef OLD_GRANT
  fence(0); fence(1)
#endif
}
inline form() {
  new_gen(); formed = 1; mem[0] = hi[0]; mem[1] = hi[1]; hi[0] = 0; hi[1] = 0;
  if :: mem[0] -> owner[0] = 0 :: mem[1] -> owner[0] = 1 fi;
  if :: mem[0] -> owner[1] = 0 :: mem[1] -> owner[1] = 1 fi;
  if :: mem[0] -> uw = 0 :: mem[1] -> uw = 1 fi }
/* files of one version, fsynced; then the journal below it goes */
#ifdef TORN
#define SETREADY (fil[0] > ck || fil[1] > ck)
#define SETVER   MAX(fil[0], fil[1])
#else
#define SETREADY (fil[0] > ck && fil[0] == fil[1])
#define SETVER   fil[0]
#endif
inline manifest() {
  if :: fil[0] > ck -> ckv[0] = filv[0] :: else fi;
  if :: fil[1] > ck -> ckv[1] = filv[1] :: else fi;
  assert(SETVER == NEXTWANT);                                                 /* P4 */
  ck = SETVER;
  assert(ckv[0] == ck && ckv[1] == ck);                                       /* P3 */
  jend[0] = MAX(jend[0], ck); jend[1] = MAX(jend[1], ck);
  fil[0] = 0; fil[1] = 0; filv[0] = 0; filv[1] = 0; done = (ck == NS) }
#define SERVING (!done && up && formed)
active proctype Coord() { /* ends when the job does; the others may wait for ever */
  do
  :: done -> break
  :: atomic { SERVING && SETREADY -> manifest() }
  :: atomic { !done && !up -> restart() }
  :: atomic { !done && up && !formed && (hi[0] || hi[1]) -> form() }
#ifdef SENDFIRST
  :: atomic { !done && up && ram[0] > jend[0] -> jend[0]++ }
  :: atomic { !done && up && ram[1] > jend[1] -> jend[1]++ }
#endif
  od }
/* the coordinator's memory goes; files that no manifest names are deleted */
inline wipe() { d_step {
  up = 0; formed = 0; T = 0; clear_step(); cb[0] = 0; cb[1] = 0; bv[0] = 0; bv[1] = 0; owner[0] = NONE; owner[1] = NONE;
  mem[0] = 0; mem[1] = 0; hi[0] = 0; hi[1] = 0; lost[0] = 0; lost[1] = 0; uw = NONE;
  fil[0] = 0; fil[1] = 0; filv[0] = 0; filv[1] = 0;
#ifdef SENDFIRST
  ram[0] = 0; ram[1] = 0;
#endif
#ifdef DROP_EARLY
  if :: jbase > ck -> jend[0] = ck; jend[1] = ck; jbase = ck :: else fi;
#endif
} }
active proctype Crash() {
end: do
  :: atomic { !done && up && bC > 0 -> bC--;
       assert(!formed || MIN(jend[0], jend[1]) >= T);                         /* P5 */
       wipe();
#ifndef KEEPJ /* the power failed, not only the process */
       do :: jend[0] > ck -> jend[0]-- :: jend[1] > ck -> jend[1]-- :: break od
#endif
     }
  od }

/* ---- workers */
inline forget(w, c) { has[I(w,c)] = 0; os[I(w,c)] = 0; ov[I(w,c)] = 0 }
inline drop_next(w) { tgt[w] = 0; nx[I(w,0)] = 0; nx[I(w,1)] = 0; nv[I(w,0)] = 0; nv[I(w,1)] = 0 }
/* a generation tells what one owns; a chunk that one has owned all along goes on as it is */
inline hear(w, c) {
  if :: owner[c] != w -> forget(w, c); pl[I(w,c)] = 0
     :: owner[c] == w && !gok[I(w,c)] ->                                      /* a new grant */
#ifndef KEEP_NEXT /* its place must not be taken before version T of the chunks is published */
          drop_next(w);
#endif
#ifndef OLD_ANSWER
          no_sum(w);
#endif
          if :: has[I(w,c)] && !KEEP(os[I(w,c)]) -> forget(w, c) :: else fi;
#ifdef NO_REPUB
          pl[I(w,c)] = MAX(pl[I(w,c)], (cb[c] -> T : T - 1))
#else
          pl[I(w,c)] = (cb[c] -> T : T - 1)
#endif
     :: else fi }
inline know(w) { news[w] = 0; told[w] = 1; gok[I(w,0)] = 1; gok[I(w,1)] = 1 }
/* slices of version x, as many as there are: beside the version in use, whose place it takes when it is whole */
inline fetch_chunk(w, c, there, val) {
  if :: there && !nx[I(w,c)] -> nx[I(w,c)] = 1; nv[I(w,c)] = val;
#ifdef INPLACE
          if :: pstep[w] > 0 -> pval[I(w,c)] = val :: else fi
#endif
     :: else fi }
inline fetch(w, x, a0, v0, a1, v1) {
#ifdef MIXBUF
  tgt[w] = x;
#else
  if :: tgt[w] != x -> drop_next(w); tgt[w] = x :: else fi;
#endif
  fetch_chunk(w, 0, a0, v0); fetch_chunk(w, 1, a1, v1);
  if :: nx[I(w,0)] && nx[I(w,1)] ->
          pstep[w] = x; pval[I(w,0)] = nv[I(w,0)]; pval[I(w,1)] = nv[I(w,1)]; drop_next(w)
     :: else fi }
inline apply(w) {
  if :: has[I(w,sc[w])] && APPLYOK(ss[w], os[I(w,sc[w])]) ->
          ov[I(w,sc[w])] = (ov[I(w,sc[w])] == ss[w] -> ss[w] + 1 : BAD); os[I(w,sc[w])] = ss[w] + 1
     :: else fi;
  if :: bN > 0 -> bN-- :: no_sum(w) fi }
inline publish(w, c) {
  pl[I(w,c)]++; bf[w] = 1; bs[w] = pl[I(w,c)]; bk[w] = c;
  if :: os[I(w,c)] == pl[I(w,c)] -> bl[w] = ov[I(w,c)]; bo[w] = 1
     :: os[I(w,c)] > pl[I(w,c)] && pstep[w] == pl[I(w,c)] -> bl[w] = pval[I(w,c)] /* one ahead: from the version in use */
     :: else -> pl[I(w,c)] = os[I(w,c)]; bs[w] = os[I(w,c)]; bl[w] = ov[I(w,c)]; bo[w] = 1 /* T is gone (mutants) */
  fi }
inline die(w) { d_step {
  told[w] = 0; news[w] = 0; gok[I(w,0)] = 0; gok[I(w,1)] = 0; forget(w, 0); forget(w, 1); pl[I(w,0)] = 0; pl[I(w,1)] = 0;
  pstep[w] = 0; pval[I(w,0)] = 0; pval[I(w,1)] = 0; drop_next(w); no_sum(w); hi[w] = 0; lost[w] = mem[w] } }
#ifdef FLIGHT
#define SLICE_ARRIVES(w) skip
#define SUM_ARRIVES(w)   skip
#else
#define SLICE_ARRIVES(w) take_slice(w)
#define SUM_ARRIVES(w)   apply(w)
#endif
#define WORKING(w)  (SERVING && told[w])
#define MINE(w, c)  (WORKING(w) && mem[w] && owner[c] == (w) && gok[I(w,c)])
#define LACKS(w, c, x) (!(tgt[w] == (x) && nx[I(w,c)]))
proctype Chunk(byte w; byte c) { /* worker w as the owner of chunk c, or as one who takes part */
end: do
  /* rebuild: the manifest's slice with its optimiser state; the journal's sums come as any sum does */
  :: atomic { MINE(w, c) && !has[I(w,c)] -> has[I(w,c)] = 1; os[I(w,c)] = ck; ov[I(w,c)] = ckv[c];
       assert(jend[c] >= T && jbase <= ck) }                                  /* P6 */
  :: atomic { MINE(w, c) && OVERTAKEN(w, c) -> forget(w, c) }
  /* AwaitSum for the chunk's label */
  :: atomic { WORKING(w) && !sf[w] && has[I(w,c)] && os[I(w,c)] <= pl[I(w,c)] && ACKED(w, c) && !FENCED(w, c) &&
       SUMOK(c, os[I(w,c)]) -> sf[w] = 1; ss[w] = os[I(w,c)]; sc[w] = c; SUM_ARRIVES(w) }
  :: atomic { WORKING(w) && !bf[w] && has[I(w,c)] && os[I(w,c)] > pl[I(w,c)] && !FENCED(w, c) ->
       publish(w, c); SLICE_ARRIVES(w) }
  /* the unit: computed on the version in use; its push fills the root, the sum is journalled */
  :: atomic { WORKING(w) && pstep[w] == T && T < NS && !RED(c) && (uw == w || !mem[w]) && !ISODD(w) ->
       assert(pval[I(w,0)] == T && pval[I(w,1)] == T);                        /* P1 */
       MADE(c) }
  od }
proctype Worker(byte w) {
end: do
  /* the coordinator about it: a slice arrives; its stream has closed; its lease is over; nobody else is there */
#ifdef FLIGHT
  :: atomic { !done && bf[w] -> take_slice(w) }
#endif
  :: atomic { SERVING && lost[w] -> lost[w] = 0; lose(w) }
  :: atomic { SERVING && mem[w] && !lost[w] && bZ > 0 -> bZ--; lose(w); ODDNOW(w) }
  :: atomic { SERVING && hi[w] && !mem[1-w] -> join(w) }
  /* the worker: takes slices of the next version as they come, or those of T when behind */
  :: atomic { WORKING(w) && mem[w] && pstep[w] == T && ((pub[0] && LACKS(w, 0, T + 1)) || (pub[1] && LACKS(w, 1, T + 1))) ->
       fetch(w, T + 1, pub[0], pv[0], pub[1], pv[1]) }
  :: atomic { WORKING(w) && mem[w] && pstep[w] != T && ((cb[0] && LACKS(w, 0, T)) || (cb[1] && LACKS(w, 1, T))) ->
       fetch(w, T, cb[0], bv[0], cb[1], bv[1]) }
#ifdef FLIGHT
  :: atomic { !done && sf[w] -> apply(w) }
  :: atomic { !done && bN > 0 && sf[w] -> bN--; no_sum(w) }                   /* lost: asked for again */
  :: atomic { !done && bN > 0 && bf[w] -> bN--;                               /* lost: sent again */
       if :: has[I(w,bk[w])] && pl[I(w,bk[w])] == bs[w] && (os[I(w,bk[w])] == bs[w] || pstep[w] == bs[w]) ->
               pl[I(w,bk[w])]--
          :: else fi;
       no_slice(w) }
#endif
  /* it says Hello, hears of a generation, dies */
  :: atomic { !done && up && !mem[w] && !hi[w] && !lost[w] -> SOBER(w); hi[w] = 1 }
  :: atomic { SERVING && mem[w] && news[w] -> hear(w, 0); hear(w, 1); know(w) }
  :: atomic { !done && bW > 0 -> bW--; die(w) }
  od }
/* formed; each worker owns one chunk; version 1 is in the cache and in use */
init { atomic {
  formed = 1; T = 1; cb[0] = 1; cb[1] = 1; bv[0] = 1; bv[1] = 1; mem[0] = 1; mem[1] = 1; know(0); know(1);
  owner[0] = 0; owner[1] = 1; uw = 0;
  has[I(0,0)] = 1; os[I(0,0)] = 1; ov[I(0,0)] = 1; pl[I(0,0)] = 1;
  has[I(1,1)] = 1; os[I(1,1)] = 1; ov[I(1,1)] = 1; pl[I(1,1)] = 1;
  pstep[0] = 1; pstep[1] = 1; pval[0] = 1; pval[1] = 1; pval[2] = 1; pval[3] = 1;
  run Worker(0); run Worker(1); run Chunk(0, 0); run Chunk(0, 1); run Chunk(1, 0); run Chunk(1, 1) } }
#ifdef LIVE
ltl live { <> done }
#endif
