/* kernels COUNT [bench]: every shape and COUNT random ones; exit code 1 when a kernel is wrong. */
int main(int argc, char **argv)
{
    const long count = argc > 1 ? atol(argv[1]) : 0;
    timing = argc > 2;
    if (argc > 3) {
        random_state = (uint64_t)strtoull(argv[3], NULL, 10) * 2654435761u + 1;
    }
    if (check_all(count)) {
        return 1;
    }
    printf("right %08x\n", (unsigned)digest);
    return 0;
}
