/* Keys of the review queue, which also works without this file. */
"use strict";

document.addEventListener("DOMContentLoaded", () => {
    const form = document.getElementById("aff-queue");
    if (!form || !form.querySelector("[type=radio]")) {
        return;
    }
    const rows = [...form.querySelectorAll("tbody tr")];
    const current = () => rows.findIndex((row) => row.contains(document.activeElement));

    const goTo = (index) => {
        const row = rows[Math.max(0, Math.min(index, rows.length - 1))];
        row.scrollIntoView({block: "nearest"});
        (row.querySelector(":checked") || row.querySelector("[type=radio]")).focus({preventScroll: true});
    };

    /** Choose a decision for the current row, and go to the field that it needs or to the next row. */
    const choose = (value, needed) => {
        const index = current();
        if (index < 0) {
            return;
        }
        rows[index].querySelector(`[value=${value}]`).checked = true;
        const field = rows[index].querySelector(needed);
        if (field) {
            field.focus();
        } else {
            goTo(index + 1);
        }
    };

    const keys = {
        j: () => goTo(current() + 1),
        k: () => goTo(current() - 1),
        a: () => choose("approve", "[name$=-amount]"),
        r: () => choose("reject", "[name$=-reason]"),
    };

    // Only while the focus is in the form, so that speech input elsewhere decides nothing.
    form.addEventListener("keydown", (event) => {
        if (event.ctrlKey || event.altKey || event.metaKey || event.repeat || event.isComposing) {
            return;
        }
        const isText = event.target.matches("input:not([type=radio], [type=submit])");
        if (isText && event.key === "Enter") {
            event.preventDefault();
            goTo(current() + 1);
        } else if (!isText && keys[event.key.toLowerCase()]) {
            event.preventDefault();
            keys[event.key.toLowerCase()]();
        }
    });

    document.querySelector(".aff-keys").hidden = false;
    goTo(rows.findIndex((row) => row.querySelector(".errorlist")));
});
