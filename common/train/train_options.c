// train_options.c: the options of a training by themselves and against a model. See trainer.h.
#include "common/train/groups.h"
#include "common/train/lora.h"
#include "common/train/trainer.h"

const struct option train_option_table[] = {TRAIN_OPTION_ROWS(struct train_options, ), {0}};

int64_t train_steps(const struct train_options *o, int64_t seq_len)
{
    if (o->steps > 0)
        return o->steps;
    int64_t step_tokens = o->batch * o->accumulate * seq_len;
    return (o->tokens + step_tokens - 1) / step_tokens;
}

int train_check(const struct train_options *o, const char *where, struct error *err)
{
    if ((o->steps > 0) == (o->tokens > 0))
        return error_set(err, "%s: found %s, expected one of \"steps\" and \"tokens\"", where,
                         o->steps > 0 ? "both \"steps\" and \"tokens\"" : "neither \"steps\" nor \"tokens\"");
    if (o->hide_tokens + o->replace_tokens >= 1)
        return error_set(err, "%s: \"hide_tokens\" %g and \"replace_tokens\" %g leave nothing of the text; expected a sum below 1", where,
                         o->hide_tokens, o->replace_tokens);
    if ((o->keep_best || o->patience) && !o->eval_every)
        return error_set(err, "%s.%s: held-out evaluations are off; give \"eval_every\" as well", where,
                         o->keep_best ? "keep_best" : "patience");
    TRY(groups_check(o, where, err));
    if (o->lora && (o->freeze.count || o->rates))
        return error_set(err, "%s: \"lora\" freezes all weights and trains factors beside them; leave \"%s\" out (lora.targets says which matrices "
                         "get factors)", where, o->rates ? "rates" : "freeze");
    if (o->lora) {
        struct lora_options lora;
        const int status = lora_options_read(&lora, o->lora, where, err);
        lora_options_release(&lora);
        TRY(status);
    }
    return 0;
}

// Elements and the share of products that are trained without lora.
static void count_trained(const struct model *m, const unsigned char *frozen, struct train_extent *extent)
{
    double all = 0, trained = 0;
    for (int i = 0; i < m->n_parameter; i++) {
        const struct parameter *p = &m->parameter[i];
        const double products = p->t.n_dim == 2 ? (double)tensor_count(&p->t) : 0;
        all += products;
        trained += frozen[i] ? 0 : products;
        extent->trained += frozen[i] ? 0 : p->n_stored;
    }
    extent->product_share = all > 0 ? trained / all : 1;
}

int train_check_model(const struct train_options *o, const struct model *m, const char *where, struct train_extent *extent,
                      struct error *err)
{
    *extent = (struct train_extent){0};
    if (o->fgm > 0 && m->arch->embed < 0)
        return error_set(err, "%s.fgm: it moves embeddings of tokens; a %s model has none; leave it out", where, m->config.model_type);
    if (o->lora) {
        struct lora_options lora;
        const int status = lora_options_read(&lora, o->lora, where, err);
        extent->trained = extent->beside = status < 0 ? -1 : lora_elements(m, &lora, where, &extent->product_share, err);
        lora_options_release(&lora);
        return extent->trained < 0 ? -1 : 0;
    }
    struct groups groups;
    TRY(groups_read(&groups, m, o, where, err));
    count_trained(m, groups.frozen, extent);
    groups_release(&groups);
    return 0;
}

int train_check_plain(const struct train_options *o, const char *where, struct error *err)
{
    const char *found = o->ema > 0 ? "ema" : o->freeze.count ? "freeze" : o->rates ? "rates" : o->lora ? "lora" : o->mixture ? "mixture"
                        : o->reweight_every ? "reweight_every" : NULL;
    return found ? error_set(err, "%s: \"%s\" is for train and distill; leave it out here", where, found) : 0;
}
