// Set-uid root in its image: who runs it is root, unless privileges cannot be gained.
#include <stdio.h>
#include <unistd.h>

int main(void) {
    printf("Effective uid: %d\n", geteuid());
    return 0;
}
