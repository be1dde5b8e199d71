/* rotation.c - the rotation's fields in every spelling, and the two tables that follow from them. */
#include "engine/rotation.h"

#include <math.h>

#include "backends/base/assert.h"
#include "engine/config.h"
#include "engine/hparams.h"

/* Where each number of the rotation is found in this file. */
struct rope_source {
    const struct eng_config *main; /* holds rope_theta */
    const char *main_key;
    const struct eng_config *compress;
    const char *compress_key;
    const struct eng_config *yarn; /* holds factor, betas, original context */
    const char *factor_alias, *context_alias;
};

static enum fm_status real_read(const struct eng_config *config, const char *key, const char *alias,
                                double min, double otherwise, double *ret_number,
                                struct fm_err *err)
{
    struct eng_config_value value;
    if (eng_config_find(config, key, alias, &value))
        return eng_config_f64(&value, min, 1e12, ret_number, err);
    if (otherwise == 0)
        return eng_config_missing(config, key, err);
    *ret_number = otherwise;
    return FM_OK;
}

static enum fm_status rope_numbers_read(const struct rope_source *source,
                                        struct eng_hparams *hparams, struct fm_err *err)
{
    struct eng_config_value value;
    enum fm_status status =
        real_read(source->main, source->main_key, NULL, 1.0001, 0, &hparams->rope_theta, err);
    if (status == FM_OK)
        status = real_read(source->compress, source->compress_key, NULL, 1.0001, 0,
                           &hparams->compress_rope_theta, err);
    if (status == FM_OK)
        status = real_read(source->yarn, "factor", source->factor_alias, 1, 0,
                           &hparams->yarn_factor, err);
    if (status == FM_OK)
        status =
            real_read(source->yarn, "beta_fast", NULL, 1e-3, 32, &hparams->yarn_beta_fast, err);
    if (status == FM_OK)
        status = real_read(source->yarn, "beta_slow", NULL, 1e-3, 1, &hparams->yarn_beta_slow, err);
    if (status != FM_OK)
        return status;
    if (hparams->yarn_beta_fast < hparams->yarn_beta_slow)
        return FM_FAIL(err, FM_CORRUPT,
                       "\"%sbeta_fast\" is %g, at least \"beta_slow\" %g is "
                       "expected",
                       source->yarn->path, hparams->yarn_beta_fast, hparams->yarn_beta_slow);
    if (!eng_config_find(source->yarn, "original_max_position_embeddings", source->context_alias,
                         &value))
        return eng_config_missing(source->yarn, "original_max_position_embeddings", err);
    return eng_config_u32(&value, 1, ENG_CONTEXT_MAX, &hparams->yarn_original_context, err);
}

/* The table must be YaRN, without a factor on sines and cosines: no released model has one. */
static enum fm_status yarn_check(const struct eng_config *yarn, struct fm_err *err)
{
    static const char *const factors[] = {"attention_factor", "mscale", "mscale_all_dim"};
    struct eng_config_value value;
    double number;
    char shown[64];

    if (!eng_config_find(yarn, "rope_type", "type", &value))
        return eng_config_missing(yarn, "rope_type", err);
    if (!eng_config_is(&value, "yarn"))
        return FM_FAIL(err, FM_UNSUPPORTED, "\"%s\" is %s, only \"yarn\" is implemented", value.key,
                       eng_config_show(&value, shown));
    for (size_t i = 0; i < FM_COUNT(factors); i++) {
        if (!eng_config_find(yarn, factors[i], NULL, &value))
            continue;
        enum fm_status status = eng_config_f64(&value, -1e12, 1e12, &number, err);
        if (status != FM_OK)
            return status;
        if (number != 1)
            return FM_FAIL(err, FM_UNSUPPORTED, "\"%s\" is %g, only 1 is implemented", value.key,
                           number);
    }
    return FM_OK;
}

/* R, or in the new spelling R as a fraction of d, at the top or in `main` (NULL: there is none). */
static enum fm_status rope_dim_read(const struct eng_config *config, const struct eng_config *main,
                                    struct eng_hparams *hparams, struct fm_err *err)
{
    struct eng_config_value value;
    double fraction;

    if (!eng_config_find(config, "partial_rotary_factor", NULL, &value) &&
        (main == NULL || !eng_config_find(main, "partial_rotary_factor", NULL, &value))) {
        if (!eng_config_find(config, "qk_rope_head_dim", "rope_head_dim", &value))
            return eng_config_missing(config, "qk_rope_head_dim", err);
        return eng_config_u32(&value, 2, 2 * ENG_ROPE_PAIRS_MAX, &hparams->rope_dim, err);
    }
    enum fm_status status = eng_config_f64(&value, 0, 1, &fraction, err);
    if (status != FM_OK)
        return status;
    double dims = fraction * hparams->head_dim, whole = nearbyint(dims);
    if (fabs(dims - whole) > 1e-6 || whole < 2 || whole > 2 * ENG_ROPE_PAIRS_MAX)
        return FM_FAIL(err, FM_CORRUPT,
                       "\"%s\" is %g, which of head_dim %u is %g dims: a whole number from 2 to %d "
                       "is expected",
                       value.key, fraction, hparams->head_dim, dims, 2 * ENG_ROPE_PAIRS_MAX);
    hparams->rope_dim = (uint32_t)whole;
    return FM_OK;
}

/* The spelling of recent transformers: {"main": {...}, "compress": {...}}. */
static enum fm_status rope_parameters_read(const struct eng_config *config,
                                           const struct eng_config_value *parameters,
                                           struct eng_hparams *hparams, struct fm_err *err)
{
    struct eng_config rope, main, compress;
    struct eng_config_value value;
    char shown[64];

    enum fm_status status = eng_config_object(parameters, &rope, err);
    if (status != FM_OK)
        return status;
    if (!eng_config_find(&rope, "main", NULL, &value))
        return eng_config_missing(&rope, "main", err);
    status = eng_config_object(&value, &main, err);
    if (status != FM_OK)
        return status;
    if (!eng_config_find(&rope, "compress", NULL, &value))
        return eng_config_missing(&rope, "compress", err);
    status = eng_config_object(&value, &compress, err);
    if (status != FM_OK)
        return status;
    if (eng_config_find(&main, "rope_type", "type", &value) && !eng_config_is(&value, "default"))
        return FM_FAIL(err, FM_UNSUPPORTED, "\"%s\" is %s, only \"default\" is implemented there",
                       value.key, eng_config_show(&value, shown));
    status = yarn_check(&compress, err);
    if (status == FM_OK)
        status = rope_dim_read(config, &main, hparams, err);
    if (status != FM_OK)
        return status;
    const struct rope_source source = {&main,     "rope_theta", &compress, "rope_theta",
                                       &compress, NULL,         NULL};
    return rope_numbers_read(&source, hparams, err);
}

enum fm_status eng_rotation_read(const struct eng_config *config, struct eng_hparams *hparams,
                                 struct fm_err *err)
{
    struct eng_config scaling;
    struct eng_config_value value;
    struct rope_source source = {config, "rope_theta", config, "compress_rope_theta",
                                 config, NULL,         NULL};

    if (eng_config_find(config, "rope_parameters", NULL, &value))
        return rope_parameters_read(config, &value, hparams, err);
    enum fm_status dim_status = rope_dim_read(config, NULL, hparams, err);
    if (dim_status != FM_OK)
        return dim_status;
    if (eng_config_find(config, "rope_scaling", NULL, &value)) {
        enum fm_status status = eng_config_object(&value, &scaling, err);
        if (status == FM_OK)
            status = yarn_check(&scaling, err);
        if (status != FM_OK)
            return status;
        source.yarn = &scaling;
    } else if (eng_config_find(config, "rope_factor", NULL, &value)) {
        source.factor_alias = "rope_factor"; /* the published inference code has them flat */
        source.context_alias = "original_seq_len";
    } else {
        return eng_config_missing(config, "rope_scaling", err);
    }
    return rope_numbers_read(&source, hparams, err);
}

/* The pair that makes `turns` turns within the original context, as a real number. */
static double yarn_pair(const struct eng_hparams *hparams, double turns)
{
    double context = hparams->yarn_original_context;
    return hparams->rope_dim * log(context / (turns * 2 * M_PI)) /
           (2 * log(hparams->compress_rope_theta));
}

/* inv[i] = 1 / base^(2i / R) in fp32, and for compressing layers YaRN's blend of it with the same
 * divided by the factor: pairs that turn fast keep their frequency, slow ones are stretched. */
void eng_rotation_tables_set(struct eng_hparams *hparams)
{
    double low = fmax(floor(yarn_pair(hparams, hparams->yarn_beta_fast)), 0);
    double high = fmin(ceil(yarn_pair(hparams, hparams->yarn_beta_slow)), hparams->rope_dim - 1.0);
    if (low == high)
        high += 0.001;
    for (uint32_t i = 0; i < hparams->rope_dim / 2; i++) {
        double exponent = 2.0 * i / hparams->rope_dim;
        float inv = 1.0f / (float)pow(hparams->compress_rope_theta, exponent);
        float ramp = ((float)i - (float)low) / (float)(high - low);
        float keep = 1.0f - fminf(fmaxf(ramp, 0.0f), 1.0f);
        hparams->inv_plain[i] = 1.0f / (float)pow(hparams->rope_theta, exponent);
        hparams->inv_yarn[i] = inv / (float)hparams->yarn_factor * (1.0f - keep) + inv * keep;
    }
}
