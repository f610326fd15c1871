(function () {
  "use strict";
  var table = document.querySelector(".layers table");
  if (table) {
    var heads = Array.prototype.slice.call(table.tHead.rows[0].cells);
    var valueOf = function (row, column) {
      var cell = row.cells[column], value = cell.getAttribute("data-v");
      if (value === null) { return cell.textContent; }
      return value === "" ? null : Number(value);
    };
    heads.forEach(function (head, column) {
      // Not a <button>: browsers leave those out of the header they repeat on every printed page.
      var button = document.createElement("span");
      button.setAttribute("role", "button");
      button.tabIndex = 0;
      while (head.firstChild) { button.appendChild(head.firstChild); }
      head.appendChild(button);
      button.addEventListener("keydown", function (event) {
        if (event.key === "Enter" || event.key === " ") { event.preventDefault(); button.click(); }
      });
      button.addEventListener("click", function () {
        var sign = head.getAttribute("aria-sort") === "ascending" ? -1 : 1;
        heads.forEach(function (other) { other.removeAttribute("aria-sort"); });
        head.setAttribute("aria-sort", sign === 1 ? "ascending" : "descending");
        var rows = Array.prototype.slice.call(table.tBodies[0].rows);
        rows.map(function (row) { return [valueOf(row, column), row]; }).sort(function (a, b) {
          if (a[0] === null || b[0] === null) { return (a[0] === null) - (b[0] === null); }
          if (typeof a[0] === "number") { return sign * (a[0] - b[0]); }
          return sign * a[0].localeCompare(b[0], undefined, { numeric: true });
        }).forEach(function (pair) { table.tBodies[0].appendChild(pair[1]); });
      });
    });
  }
  var all = document.querySelectorAll("details");
  var fold = document.querySelector(".fold");
  if (fold) {
    [["Open all", true], ["Close all", false]].forEach(function (choice) {
      var button = document.createElement("button");
      button.type = "button";
      button.textContent = choice[0];
      button.addEventListener("click", function () {
        Array.prototype.forEach.call(all, function (item) { item.open = choice[1]; });
      });
      fold.appendChild(button);
    });
  }
  var reveal = function () {
    var target = location.hash && document.getElementById(location.hash.slice(1));
    var item = target && target.closest("details");
    if (item) { item.open = true; target.scrollIntoView(); }
  };
  window.addEventListener("hashchange", reveal);
  reveal();
})();
