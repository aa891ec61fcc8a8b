// test_sweep.c: the grid of a sweep, names of points, the Pareto front.
#include <criterion/criterion.h>
#include <stdlib.h>
#include <string.h>

#include "recipes/recipe.h"
#include "recipes/sweep.h"

static void read_grid(struct grid *g, const char *a, const char *b)
{
    char *items[2] = {(char *)(uintptr_t)a, (char *)(uintptr_t)b};
    const struct option_list vary = {.item = items, .count = b ? 2 : 1};
    struct error err;
    cr_assert_eq(grid_read(g, &vary, &err), 0, "%s", err.text);
}

static void expect_point(const struct grid *g, int64_t i, const char *expected)
{
    struct json *point = grid_point(g, i);
    char *name = grid_name(point);
    cr_expect_str_eq(name, expected);
    free(name);
    json_free(point);
}

Test(sweep, a_grid_is_every_combination_the_last_key_fastest)
{
    struct grid g;
    read_grid(&g, "prune.ffn=0.1:0.5:0.2", "prune.score=taylor,random");
    cr_assert_eq(grid_points(&g), 6);
    expect_point(&g, 0, "prune.ffn=0.1 prune.score=taylor");
    expect_point(&g, 1, "prune.ffn=0.1 prune.score=random");
    expect_point(&g, 2, "prune.ffn=0.3 prune.score=taylor"); // not 0.30000000000000004
    expect_point(&g, 5, "prune.ffn=0.5 prune.score=random");
    grid_release(&g);
    read_grid(&g, "distill.tokens=1000,2e3", NULL);
    expect_point(&g, 1, "distill.tokens=2000");
    grid_release(&g);
}

// Folders of sweeps that exist are found again only as long as these names stay.
Test(sweep, names_of_points_are_pinned)
{
    static const char text[] = "{\"name\": \"n\", \"model\": \"m\", \"data\": {\"train\": \"t.txt\", \"eval\": \"e.txt\"},"
                               "\"stages\": [{\"export\": {\"dtype\": \"f16\"}}]}";
    struct error err;
    struct recipe r;
    char hash[HASH_TEXT];
    struct json *o = json_parse(text, strlen(text), "test", 0, &err);
    cr_assert_eq(recipe_from_json(&r, o, "test", "/", NULL, &err), 0, "%s", err.text);
    grid_hash(&r, hash);
    cr_expect_str_eq(hash, "ab070fd71d860832");
    recipe_release(&r);
    json_set_string(o, "output", "elsewhere"); // where it goes is not what it is
    cr_assert_eq(recipe_from_json(&r, o, "test", "/", NULL, &err), 0, "%s", err.text);
    grid_hash(&r, hash);
    cr_expect_str_eq(hash, "ab070fd71d860832");
    recipe_release(&r);
    json_free(o);
}

Test(sweep, the_front_is_what_nothing_beats)
{
    const double cost[6] = {1, 2, 3, 2, 4, 1}, loss[6] = {5, 3, 3, 4, 1, 5};
    const unsigned char expected[6] = {1, 1, 0, 0, 1, 1}; // equal points are both on it
    unsigned char front[6];
    pareto_front(cost, loss, 6, front);
    cr_assert_arr_eq(front, expected, sizeof expected);
}
