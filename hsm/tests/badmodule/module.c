/* A PKCS#11 module that misbehaves on command, between the worker and SoftHSM.
 * Enters: every call; the words in the file that BAD_MODULE_WORDS names, read anew each time.
 * Leaves: what SoftHSM answers, or the fault asked for.
 *
 * slots       slot numbers are others than SoftHSM's
 * hang        C_Sign never returns                      crash      C_Sign dies of a bad pointer
 * device      C_Sign gives CKR_DEVICE_ERROR             full       C_GenerateKeyPair gives CKR_DEVICE_MEMORY
 * loose       a private key says it is extractable      short      C_Sign gives a byte too few
 * lasttry     the token says one PIN try is left        session    C_SignInit gives CKR_SESSION_HANDLE_INVALID
 * halfway     C_GenerateKeyPair dies with one half made  answerless C_GenerateKeyPair and C_GenerateKey die when all is made
 * alone       C_UnwrapKey dies when a private key is in
 * nogcm       C_EncryptInit knows no AES-GCM            deafgcm    what AES-GCM closed does not open
 * hungiv      AES-GCM hangs a vector of its own on the ciphertext (Luna in FIPS mode)
 * owniv       AES-GCM wants an empty place for its vector and fills it (CloudHSM)
 * nodata      C_CreateObject makes no data objects      nosession  nothing is generated for a session alone
 * general     C_GenerateKeyPair gives CKR_GENERAL_ERROR for what is to stay
 * nok1        the same for secp256k1 alone              bentsign   C_Sign turns a bit
 * badclock    the token's description has a time that is none (opencryptoki 3.8)
 * twolists    whoever asks for the functions a second time gets some that know nothing of the first one's sessions (p11-kit)
 * nolocal     no key says that it was made in the token (NetHSM, NSS)
 * noserial    the token's serial is blank (opencryptoki)
 * strike      the call at which the number in BAD_MODULE_STRIKE comes down to 0 is not carried out: CKR_DEVICE_ERROR, once
 * strikelate  the same call is carried out, and answered with CKR_DEVICE_ERROR
 * readonly    C_CreateObject and C_GenerateKey* give CKR_GENERAL_ERROR for what is to stay, C_DestroyObject always
 */
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef unsigned long ulong_t;
typedef ulong_t rv_t;

/* The standard fixes the order of the 68 functions; these are their places. */
enum { LIST = 3, CREATE = 20, DESTROY = 22, ENCRYPT_INIT = 29, ENCRYPT = 30, DECRYPT = 34, SLOT_LIST = 4, SLOT_INFO, TOKEN_INFO, MECHANISM_LIST, MECHANISM_INFO, OPEN = 12, ATTRIBUTES = 24,
       SIGN_INIT = 42, SIGN = 43, GENERATE = 58, GENERATE_PAIR = 59, UNWRAP = 61, FUNCTIONS = 68 };
struct functions { unsigned char major, minor; void *at[FUNCTIONS]; };
struct attribute { ulong_t type; void *value; ulong_t len; };

static struct functions real, ours;

static int told(const char *word) {
    char words[256] = "";
    FILE *file = fopen(getenv("BAD_MODULE_WORDS"), "r");
    if (!file) return 0;
    size_t len = fread(words, 1, sizeof words - 1, file);
    fclose(file);
    words[len] = 0;
    return strstr(words, word) != NULL;
}

/* Counts the calls that touch objects, over all lives of the worker. */
static int struck(void) {
    if (!told("strike")) return 0;
    FILE *file = fopen(getenv("BAD_MODULE_STRIKE"), "r+");
    int left = 0;
    if (!file) return 0;
    if (fscanf(file, "%d", &left) != 1 || left <= 0) left = 0;
    else {
        rewind(file);
        fprintf(file, "%-8d", left - 1);
    }
    fclose(file);
    return left == 1;
}
enum { DEVICE_ERROR = 0x30 };
/* Around a call that touches objects: it fails before its effect, or after it. */
#define STRIKING(call) \
    do { \
        int now = struck(); \
        if (now && !told("strikelate")) return DEVICE_ERROR; \
        rv_t outcome = call; \
        return now ? DEVICE_ERROR : outcome; \
    } while (0)

static ulong_t shift(ulong_t slot) { return told("slots") ? slot ^ 0x40 : slot; }

static rv_t slot_list(unsigned char present, ulong_t *list, ulong_t *count) {
    rv_t rv = ((rv_t (*)(unsigned char, ulong_t *, ulong_t *))real.at[SLOT_LIST])(present, list, count);
    for (ulong_t i = 0; !rv && list && i < *count; i++) list[i] = shift(list[i]);
    return rv;
}
static rv_t slot_info(ulong_t slot, void *info) { return ((rv_t (*)(ulong_t, void *))real.at[SLOT_INFO])(shift(slot), info); }
static rv_t token_info(ulong_t slot, unsigned char *info) {
    rv_t rv = ((rv_t (*)(ulong_t, void *))real.at[TOKEN_INFO])(shift(slot), info);
    /* The flags stand behind label, manufacturer, model and serial: 32 + 32 + 16 + 16 bytes. */
    ulong_t flags;
    memcpy(&flags, info + 96, sizeof flags);
    if (told("lasttry")) flags |= 0x00020000UL;
    if (told("badclock")) flags |= 0x00000040UL;
    memcpy(info + 96, &flags, sizeof flags);
    if (told("noserial")) memset(info + 80, ' ', 16);
    /* The time stands at the end, behind ten numbers and two versions. */
    if (told("badclock")) memcpy(info + 188, "11:07:56        ", 16);
    return rv;
}
static rv_t mechanism_list(ulong_t slot, ulong_t *list, ulong_t *count) {
    return ((rv_t (*)(ulong_t, ulong_t *, ulong_t *))real.at[MECHANISM_LIST])(shift(slot), list, count);
}
static rv_t mechanism_info(ulong_t slot, ulong_t type, void *info) {
    return ((rv_t (*)(ulong_t, ulong_t, void *))real.at[MECHANISM_INFO])(shift(slot), type, info);
}
static rv_t open_session(ulong_t slot, ulong_t flags, void *app, void *notify, ulong_t *session) {
    return ((rv_t (*)(ulong_t, ulong_t, void *, void *, ulong_t *))real.at[OPEN])(shift(slot), flags, app, notify, session);
}
static rv_t attributes(ulong_t session, ulong_t object, struct attribute *list, ulong_t count) {
    rv_t rv = ((rv_t (*)(ulong_t, ulong_t, struct attribute *, ulong_t))real.at[ATTRIBUTES])(session, object, list, count);
    for (ulong_t i = 0; !rv && told("loose") && i < count; i++)
        if (list[i].type == 0x162 && list[i].value) *(unsigned char *)list[i].value = 1;
    for (ulong_t i = 0; !rv && told("nolocal") && i < count; i++)
        if (list[i].type == 0x163 && list[i].value) *(unsigned char *)list[i].value = 0;
    return rv;
}
static rv_t sign_init(ulong_t session, void *mechanism, ulong_t key) {
    if (told("session")) return 0xB3;
    return ((rv_t (*)(ulong_t, void *, ulong_t))real.at[SIGN_INIT])(session, mechanism, key);
}
static rv_t sign(ulong_t session, void *data, ulong_t data_len, void *made, ulong_t *made_len) {
    while (told("hang")) pause();
    if (told("crash")) *(volatile int *)8 = 0;
    if (told("device")) return 0x30;
    rv_t rv = ((rv_t (*)(ulong_t, void *, ulong_t, void *, ulong_t *))real.at[SIGN])(session, data, data_len, made, made_len);
    if (!rv && told("short")) --*made_len;
    if (!rv && made && told("bentsign")) ((unsigned char *)made)[3] ^= 1;
    return rv;
}

struct mechanism { ulong_t type; void *parameter; ulong_t len; };
struct gcm { unsigned char *iv; ulong_t iv_len, iv_bits; void *aad; ulong_t aad_len, tag_bits; };
enum { GCM = 0x1087, HUNG = 16 };
static __thread unsigned char hung[HUNG];
static __thread int hangs;

static rv_t encrypt_init(ulong_t session, struct mechanism *mechanism, ulong_t key) {
    rv_t (*init)(ulong_t, void *, ulong_t) = (rv_t (*)(ulong_t, void *, ulong_t))real.at[ENCRYPT_INIT];
    struct gcm *asked = mechanism->parameter;
    hangs = 0;
    if (mechanism->type != GCM) return init(session, mechanism, key);
    if (told("nogcm")) return 0x70;
    if (told("hungiv")) {
        for (int i = 0; i < HUNG; i++) hung[i] = (unsigned char)rand();
        struct gcm own = { hung, HUNG, HUNG * 8, asked->aad, asked->aad_len, asked->tag_bits };
        struct mechanism with_own = { GCM, &own, sizeof own };
        hangs = 1;
        return init(session, &with_own, key);
    }
    if (told("owniv")) {
        for (ulong_t i = 0; i < asked->iv_len; i++)
            if (asked->iv[i]) return 0x71;
        for (ulong_t i = 0; i < asked->iv_len; i++) asked->iv[i] = (unsigned char)(rand() | 1);
    }
    return init(session, mechanism, key);
}
static rv_t encrypt(ulong_t session, void *data, ulong_t len, unsigned char *made, ulong_t *made_len) {
    rv_t rv = ((rv_t (*)(ulong_t, void *, ulong_t, void *, ulong_t *))real.at[ENCRYPT])(session, data, len, made, made_len);
    if (rv || !hangs) return rv;
    if (made) memcpy(made + *made_len, hung, HUNG);
    *made_len += HUNG;
    return rv;
}
static rv_t decrypt(ulong_t session, void *data, ulong_t len, void *made, ulong_t *made_len) {
    rv_t rv = ((rv_t (*)(ulong_t, void *, ulong_t, void *, ulong_t *))real.at[DECRYPT])(session, data, len, made, made_len);
    return !rv && made && told("deafgcm") ? 0x40 : rv;
}
/* True when a template has this attribute with this first byte: CKA_TOKEN (1) true, CKA_CLASS (0) private key (3). */
static int has(struct attribute *list, ulong_t count, ulong_t type, unsigned char first) {
    for (ulong_t i = 0; i < count; i++)
        if (list[i].type == type && list[i].value && *(unsigned char *)list[i].value == first) return 1;
    return 0;
}
static rv_t create(ulong_t session, struct attribute *list, ulong_t count, ulong_t *made) {
    if (told("nodata") && has(list, count, 0, 0)) return 0x13;
    if (told("readonly") && has(list, count, 1, 1)) return 0x05;
    return ((rv_t (*)(ulong_t, void *, ulong_t, ulong_t *))real.at[CREATE])(session, list, count, made);
}
static rv_t destroy(ulong_t session, ulong_t object) {
    if (told("readonly")) return 0x05;
    return ((rv_t (*)(ulong_t, ulong_t))real.at[DESTROY])(session, object);
}
/* True when a pair is to be on secp256k1, by its name in DER: 1.3.132.0.10. */
static int on_k1(struct attribute *list, ulong_t count) {
    static const unsigned char name[] = { 0x06, 0x05, 0x2b, 0x81, 0x04, 0x00, 0x0a };
    for (ulong_t i = 0; i < count; i++)
        if (list[i].type == 0x180 && list[i].len == sizeof name && !memcmp(list[i].value, name, sizeof name)) return 1;
    return 0;
}
static rv_t generate(ulong_t session, void *mechanism, struct attribute *list, ulong_t count, ulong_t *made) {
    if (told("nosession") && !has(list, count, 1, 1)) return 0x13;
    if (told("readonly") && has(list, count, 1, 1)) return 0x05;
    rv_t rv = ((rv_t (*)(ulong_t, void *, void *, ulong_t, ulong_t *))real.at[GENERATE])(session, mechanism, list, count, made);
    if (!rv && told("answerless") && has(list, count, 1, 1)) _exit(9);
    return rv;
}
static rv_t generate_pair(ulong_t session, void *mechanism, struct attribute *public, ulong_t publics, struct attribute *private,
                          ulong_t privates, ulong_t *public_made, ulong_t *private_made) {
    if (told("full")) return 0x31;
    if (told("nosession") && !has(private, privates, 1, 1)) return 0x13;
    if ((told("general") || told("readonly")) && has(private, privates, 1, 1)) return 0x05;
    if (told("nok1") && on_k1(public, publics)) return 0x05;
    rv_t rv = ((rv_t (*)(ulong_t, void *, void *, ulong_t, void *, ulong_t, ulong_t *, ulong_t *))real.at[GENERATE_PAIR])(
        session, mechanism, public, publics, private, privates, public_made, private_made);
    if (rv || !has(private, privates, 1, 1)) return rv;
    if (told("halfway")) {
        ((rv_t (*)(ulong_t, ulong_t))real.at[DESTROY])(session, *private_made);
        _exit(9);
    }
    if (told("answerless")) _exit(9);
    return rv;
}
static rv_t unwrap(ulong_t session, void *mechanism, ulong_t key, void *wrapped, ulong_t len, struct attribute *list, ulong_t count,
                   ulong_t *made) {
    rv_t rv = ((rv_t (*)(ulong_t, void *, ulong_t, void *, ulong_t, void *, ulong_t, ulong_t *))real.at[UNWRAP])(
        session, mechanism, key, wrapped, len, list, count, made);
    if (!rv && told("alone") && has(list, count, 0, 3) && has(list, count, 1, 1)) _exit(9);
    return rv;
}

static rv_t striking_create(ulong_t s, struct attribute *l, ulong_t n, ulong_t *m) { STRIKING(create(s, l, n, m)); }
static rv_t striking_destroy(ulong_t s, ulong_t o) { STRIKING(destroy(s, o)); }
static rv_t striking_encrypt(ulong_t s, void *d, ulong_t n, unsigned char *m, ulong_t *l) { STRIKING(encrypt(s, d, n, m, l)); }
static rv_t striking_decrypt(ulong_t s, void *d, ulong_t n, void *m, ulong_t *l) { STRIKING(decrypt(s, d, n, m, l)); }
static rv_t striking_sign(ulong_t s, void *d, ulong_t n, void *m, ulong_t *l) { STRIKING(sign(s, d, n, m, l)); }
static rv_t striking_generate(ulong_t s, void *w, struct attribute *l, ulong_t n, ulong_t *m) { STRIKING(generate(s, w, l, n, m)); }
static rv_t striking_pair(ulong_t s, void *w, struct attribute *p, ulong_t pn, struct attribute *q, ulong_t qn, ulong_t *a, ulong_t *b) {
    STRIKING(generate_pair(s, w, p, pn, q, qn, a, b));
}
static rv_t striking_attributes(ulong_t s, ulong_t o, struct attribute *l, ulong_t n) { STRIKING(attributes(s, o, l, n)); }

static rv_t unknown(void) { return 0x190; }

rv_t C_GetFunctionList(struct functions **list) {
    static int asked;
    static struct functions strangers;
    void *softhsm = dlopen(getenv("BAD_MODULE_REAL"), RTLD_NOW);
    rv_t (*given)(struct functions **) = softhsm ? (rv_t (*)(struct functions **))dlsym(softhsm, "C_GetFunctionList") : NULL;
    struct functions *theirs;
    if (!given || given(&theirs)) return 5;
    real = ours = *theirs;
    ours.at[LIST] = C_GetFunctionList;
    ours.at[SLOT_LIST] = slot_list;
    ours.at[SLOT_INFO] = slot_info;
    ours.at[TOKEN_INFO] = token_info;
    ours.at[MECHANISM_LIST] = mechanism_list;
    ours.at[MECHANISM_INFO] = mechanism_info;
    ours.at[OPEN] = open_session;
    ours.at[ATTRIBUTES] = striking_attributes;
    ours.at[CREATE] = striking_create;
    ours.at[DESTROY] = striking_destroy;
    ours.at[ENCRYPT_INIT] = encrypt_init;
    ours.at[ENCRYPT] = striking_encrypt;
    ours.at[DECRYPT] = striking_decrypt;
    ours.at[SIGN_INIT] = sign_init;
    ours.at[SIGN] = striking_sign;
    ours.at[GENERATE] = striking_generate;
    ours.at[GENERATE_PAIR] = striking_pair;
    ours.at[UNWRAP] = unwrap;
    strangers = ours;
    strangers.at[15] = strangers.at[SIGN_INIT] = strangers.at[SIGN] = (void *)unknown;
    *list = asked++ && told("twolists") ? &strangers : &ours;
    return 0;
}
