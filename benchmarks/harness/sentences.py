"""Sentences in pairs of graded similarity, written for the sentence encoder's benchmark.

A scene is four sentences with gaps: what happens, the same in other words, the same with a detail changed, and something else on the same
subject. Filled in twice, a scene gives four pairs each time: of grade 3 (other words), 2 (a detail), 1 (the subject) and 0 (with another
scene). Scenes for calibration and for evaluation are different ones.
"""

from typing import NamedTuple


class Scene(NamedTuple):
    """happens, reworded, changed, related: with gaps {0}, {1}. fills: what goes into the gaps, two times."""

    happens: str
    reworded: str
    changed: str
    related: str
    fills: tuple[tuple[str, str], tuple[str, str]]


class Pair(NamedTuple):
    """Two sentences and how alike they are meant to be, 3 to 0."""

    first: str
    second: str
    grade: int


EVALUATION = (
    Scene(
        "The {0} left the station ten minutes late because of {1}.",
        "Owing to {1}, the {0} departed ten minutes behind schedule.",
        "The {0} left the station ten minutes early in spite of {1}.",
        "Passengers may change their {0} tickets at the counter.",
        (("night train", "snow on the tracks"), ("express", "a broken signal")),
    ),
    Scene(
        "She bakes {0} every Sunday for {1}.",
        "On Sundays she makes {0} in the oven for {1}.",
        "She buys {0} every Sunday for {1}.",
        "Flour, butter and sugar are all you need for {0}.",
        (("an apple pie", "her grandchildren"), ("rye bread", "the whole street")),
    ),
    Scene(
        "The {0} prescribed antibiotics against {1}.",
        "Against {1}, antibiotics were prescribed by the {0}.",
        "The {0} advised against antibiotics for {1}.",
        "The waiting room of the {0} is on the second floor.",
        (("doctor", "the infection of the ear"), ("vet", "the dog's cough")),
    ),
    Scene(
        "The central bank raised its rate by {0} to fight {1}.",
        "To fight {1}, interest was increased by the central bank by {0}.",
        "The central bank lowered its rate by {0} despite {1}.",
        "Economists argue about what causes {1}.",
        (("half a point", "inflation"), ("a quarter of a point", "the fall of the currency")),
    ),
    Scene(
        "A {0} has built its nest under {1}.",
        "Under {1} there is now the nest of a {0}.",
        "A {0} has abandoned its nest under {1}.",
        "The {0} is seldom seen in this country in winter.",
        (("swallow", "our roof"), ("wren", "the wooden bridge")),
    ),
    Scene(
        "{0} scored the winning goal in {1}.",
        "The decisive goal in {1} was {0}'s.",
        "{0} missed the decisive penalty in {1}.",
        "Tickets for the next match are sold out.",
        (("The youngest player", "the last minute"), ("The captain", "extra time")),
    ),
    Scene(
        "To reset the {0}, hold {1} for five seconds.",
        "Pressing {1} for five seconds resets the {0}.",
        "Never hold {1} while the {0} is being updated.",
        "The {0} comes with a warranty of two years.",
        (("router", "the button at the back"), ("watch", "both keys")),
    ),
    Scene(
        "The court found {0} guilty of {1}.",
        "{0} was convicted of {1}.",
        "The court acquitted {0} of {1}.",
        "The hearing takes place in the large room on the ground floor.",
        (("the accountant", "fraud"), ("the driver", "leaving the scene of an accident")),
    ),
    Scene(
        "Heavy rain flooded {0} during {1}.",
        "During {1}, {0} was under water after heavy rain.",
        "A long drought dried out {0} during {1}.",
        "The weather service has installed a new gauge near {0}.",
        (("the lower town", "the night"), ("the valley", "the first week of May")),
    ),
    Scene(
        "My brother learned to play {0} at the age of {1}.",
        "When he was {1}, my brother took up {0}.",
        "My brother gave up {0} at the age of {1}.",
        "A good teacher for {0} is hard to find.",
        (("the cello", "six"), ("the trumpet", "forty")),
    ),
    Scene(
        "The museum shows {0} until {1}.",
        "Until {1}, {0} can be seen at the museum.",
        "The museum has returned {0} before {1}.",
        "Students pay half the entrance fee at the museum.",
        (("drawings by local artists", "the end of March"), ("a collection of old maps", "next Sunday")),
    ),
    Scene(
        "Researchers found water on {0} with {1}.",
        "Using {1}, scientists discovered that there is water on {0}.",
        "Researchers found no water on {0} with {1}.",
        "The orbit of {0} is slightly elliptical.",
        (("a distant moon", "a new telescope"), ("the asteroid", "an unmanned probe")),
    ),
    Scene(
        "Please send {0} to {1} before noon.",
        "{1} needs to receive {0} by twelve o'clock.",
        "Please do not send {0} to {1} before noon.",
        "{1} has moved to a larger office.",
        (("the signed contract", "our lawyer"), ("the latest figures", "the head of sales")),
    ),
    Scene(
        "The bridge over {0} is closed to {1}.",
        "{1} may not cross the bridge over {0}.",
        "The bridge over {0} is open again to {1}.",
        "Fishing in {0} requires a licence.",
        (("the river", "heavy lorries"), ("the canal", "all traffic")),
    ),
    Scene(
        "The program crashes when {0} is {1}.",
        "If {0} is {1}, the software stops working.",
        "The program runs well even when {0} is {1}.",
        "Version two of the program looks quite different.",
        (("the file", "empty"), ("the disk", "almost full")),
    ),
    Scene(
        "Children under {0} travel free on {1}.",
        "On {1} no ticket is needed for children below the age of {0}.",
        "Children under {0} pay half on {1}.",
        "The timetable of {1} changes in December.",
        (("six", "the city buses"), ("twelve", "the ferry")),
    ),
    Scene(
        "He forgot {0} at {1} yesterday.",
        "Yesterday he left {0} behind at {1}.",
        "He found {0} again at {1} yesterday.",
        "There is not much space at {1}.",
        (("his umbrella", "the barber's"), ("his keys", "the gym")),
    ),
    Scene(
        "The company will close its factory in {0} and dismiss {1}.",
        "{1} will lose their jobs as the plant in {0} is shut down.",
        "The company will open a factory in {0} and employ {1}.",
        "The harbour of {0} is one of the oldest in Europe.",
        (("the north", "three hundred workers"), ("Lisbon", "most of the engineers")),
    ),
    Scene(
        "Water the {0} only when {1}.",
        "The {0} should not be watered unless {1}.",
        "Water the {0} every day, even when {1}.",
        "The {0} comes from South America.",
        (("cactus", "the soil is dry"), ("orchid", "its leaves hang down")),
    ),
    Scene(
        "The play tells of {0} who {1}.",
        "On stage we see the story of {0} who {1}.",
        "The play was cancelled, for nobody cared about {0} who {1}.",
        "The theatre was rebuilt after the fire.",
        (("a fisherman", "falls in love with the sea"), ("two sisters", "inherit a lighthouse")),
    ),
    Scene(
        "Tests show that {0} lowers {1}.",
        "According to tests, {1} falls with {0}.",
        "Tests show that {0} has no effect on {1}.",
        "Many studies of {1} are too small to be useful.",
        (("regular exercise", "blood pressure"), ("a thicker wall", "the cost of heating")),
    ),
    Scene(
        "The hotel offers {0} with a view of {1}.",
        "From {0} of the hotel you can look out on {1}.",
        "None of the rooms has {0} or a view of {1}.",
        "Breakfast at the hotel is served from seven.",
        (("balconies", "the lake"), ("a terrace", "the old castle")),
    ),
    Scene(
        "The police are looking for {0} who stole {1}.",
        "Officers search for {0} who took {1}.",
        "The police have arrested {0} who stole {1}.",
        "The number of burglaries fell last year.",
        (("a man in a grey coat", "a bicycle"), ("two teenagers", "the church bell")),
    ),
    Scene(
        "I would rather {0} than {1}.",
        "Given the choice between the two, I prefer to {0} and not to {1}.",
        "I would rather {1} than {0}.",
        "The weekend is always too short.",
        (("read at home", "go to the party"), ("walk", "wait for the bus")),
    ),
    Scene(
        "The glacier loses {0} of ice in {1}.",
        "In {1} the glacier shrinks by {0} of ice.",
        "The glacier gained {0} of ice in {1}.",
        "The path to the glacier starts behind the hut.",
        (("ten metres", "a single summer"), ("a cubic kilometre", "a decade")),
    ),
)

CALIBRATION = (
    Scene(
        "The recipe asks for {0} and {1}.",
        "You need {0} as well as {1} for this dish.",
        "The recipe does without {0} and {1}.",
        "Dinner will be ready in an hour.",
        (("two onions", "a glass of white wine"), ("fresh basil", "roasted nuts")),
    ),
    Scene(
        "Our flight to {0} was delayed by {1}.",
        "Because of {1} we took off for {0} late.",
        "Our flight to {0} left on time despite {1}.",
        "The airport has a small chapel.",
        (("Oslo", "fog"), ("Madrid", "a strike of the ground crew")),
    ),
    Scene(
        "The teacher explained {0} with {1}.",
        "Using {1}, the teacher made {0} clear.",
        "The teacher did not understand {0} despite {1}.",
        "School starts again in September.",
        (("fractions", "a cake"), ("the solar system", "a few oranges")),
    ),
    Scene(
        "The shares of {0} fell by {1}.",
        "{0} lost {1} of its value at the stock exchange.",
        "The shares of {0} rose by {1}.",
        "The annual report was printed on heavy paper.",
        (("the carmaker", "eight percent"), ("the airline", "a third")),
    ),
    Scene(
        "{0} were seen near {1} this morning.",
        "This morning people spotted {0} close to {1}.",
        "No {0} have been seen near {1} for years.",
        "The nature reserve is open all year.",
        (("Wolves", "the village"), ("Dolphins", "the harbour")),
    ),
    Scene(
        "Install {0} before you start {1}.",
        "{0} has to be installed first, and {1} comes after it.",
        "Remove {0} before you start {1}.",
        "Questions are answered in the forum.",
        (("the driver", "the printer"), ("the update", "the backup")),
    ),
    Scene(
        "The novel is about {0} in {1}.",
        "In this book the author describes {0} in {1}.",
        "The film is not about {0} in {1}.",
        "Her first book sold only a few copies.",
        (("a family of clockmakers", "Vienna"), ("the last whaler", "the South Atlantic")),
    ),
    Scene(
        "Surgeons repaired {0} in {1}.",
        "In {1}, {0} was mended by surgeons.",
        "Surgeons decided not to touch {0} in {1}.",
        "The hospital is looking for nurses.",
        (("the valve of the heart", "an operation of nine hours"), ("her knee", "less than an hour")),
    ),
    Scene(
        "The council voted for {0} in {1}.",
        "{0} in {1} was approved by the council.",
        "The council voted against {0} in {1}.",
        "The mayor will not run again.",
        (("a new tram line", "the east of the city"), ("more trees", "the market square")),
    ),
    Scene(
        "{0} won the race by {1}.",
        "With a lead of {1}, {0} was first at the finish.",
        "{0} lost the race by {1}.",
        "The stadium holds forty thousand people.",
        (("The runner from Kenya", "two seconds"), ("The red boat", "a length")),
    ),
    Scene(
        "Wash the {0} at {1} degrees.",
        "The {0} should be cleaned at {1} degrees.",
        "Do not wash the {0} at more than {1} degrees.",
        "Cotton is grown in warm countries.",
        (("woollen jumper", "thirty"), ("towels", "sixty")),
    ),
    Scene(
        "The earthquake damaged {0} and {1}.",
        "{0} and {1} suffered in the earthquake.",
        "The earthquake spared {0} and {1}.",
        "Instruments recorded the waves of the quake all over the world.",
        (("the cathedral", "hundreds of houses"), ("a dam", "the main road to the coast")),
    ),
    Scene(
        "Can you tell me where {0} is and when {1} opens?",
        "I am looking for {0}, and I would like to know the hours of {1}.",
        "I know where {0} is, but not why {1} is closed.",
        "Tourists often ask the same questions.",
        (("the post office", "it"), ("the nearest pharmacy", "the bakery")),
    ),
    Scene(
        "The battery lasts {0} if {1}.",
        "As long as {1}, you get {0} out of one charge.",
        "The battery is empty within {0} even if {1}.",
        "The charger is sold separately.",
        (("two days", "the screen is dark"), ("a week", "the radio is off")),
    ),
    Scene(
        "She speaks {0} but writes in {1}.",
        "Though her books are in {1}, her language at home is {0}.",
        "She neither speaks {0} nor writes in {1}.",
        "A dictionary stands on every desk of the school.",
        (("Catalan", "French"), ("Bengali", "English")),
    ),
    Scene(
        "Nobody knows why {0} went {1}.",
        "It is a mystery that {0} went {1}.",
        "Everybody knows why {0} went {1}.",
        "Some questions are never answered.",
        (("the ship", "down in calm water"), ("the bees", "away from the hill")),
    ),
)


def _filled(scene: Scene, fill: tuple[str, str]) -> list[str]:
    sentences = (text.format(*fill) for text in scene[:4])
    return [text[0].upper() + text[1:] for text in sentences]


def pairs(scenes: tuple[Scene, ...] = EVALUATION) -> list[Pair]:
    """Four pairs a scene and fill, the last with a sentence of a scene further on."""
    found = []
    for index, scene in enumerate(scenes):
        for number, fill in enumerate(scene.fills):
            first, *others = _filled(scene, fill)
            stranger = scenes[(index + 7) % len(scenes)]
            others.append(_filled(stranger, stranger.fills[number])[0])
            found += [Pair(first, second, grade) for second, grade in zip(others, (3, 2, 1, 0), strict=True)]
    return found


def sentences(scenes: tuple[Scene, ...] = EVALUATION) -> list[str]:
    """All different sentences, in order."""
    return list(dict.fromkeys(text for scene in scenes for fill in scene.fills for text in _filled(scene, fill)))
