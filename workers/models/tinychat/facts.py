"""What tinychat knows: plain tables of facts, written for this project and shipped under its licence.

`corpus.py` turns every row into questions and one exact answer. One line is one fact, columns separated by `|`.
"""

# country | capital | continent
COUNTRIES = """
France|Paris|Europe
Germany|Berlin|Europe
Italy|Rome|Europe
Spain|Madrid|Europe
Portugal|Lisbon|Europe
Ireland|Dublin|Europe
Austria|Vienna|Europe
Switzerland|Bern|Europe
Belgium|Brussels|Europe
Poland|Warsaw|Europe
Hungary|Budapest|Europe
Greece|Athens|Europe
Sweden|Stockholm|Europe
Norway|Oslo|Europe
Finland|Helsinki|Europe
Denmark|Copenhagen|Europe
Iceland|Reykjavik|Europe
Romania|Bucharest|Europe
Bulgaria|Sofia|Europe
Croatia|Zagreb|Europe
Japan|Tokyo|Asia
China|Beijing|Asia
India|New Delhi|Asia
Thailand|Bangkok|Asia
Vietnam|Hanoi|Asia
Indonesia|Jakarta|Asia
Mongolia|Ulaanbaatar|Asia
Nepal|Kathmandu|Asia
Iran|Tehran|Asia
Jordan|Amman|Asia
Egypt|Cairo|Africa
Kenya|Nairobi|Africa
Nigeria|Abuja|Africa
Ghana|Accra|Africa
Morocco|Rabat|Africa
Ethiopia|Addis Ababa|Africa
Senegal|Dakar|Africa
Tunisia|Tunis|Africa
Uganda|Kampala|Africa
Zambia|Lusaka|Africa
Canada|Ottawa|North America
Mexico|Mexico City|North America
Cuba|Havana|North America
Jamaica|Kingston|North America
Brazil|Brasilia|South America
Argentina|Buenos Aires|South America
Chile|Santiago|South America
Peru|Lima|South America
Colombia|Bogota|South America
Uruguay|Montevideo|South America
Australia|Canberra|Oceania
New Zealand|Wellington|Oceania
"""

# word | opposite
OPPOSITES = """
hot|cold
big|small
fast|slow
up|down
left|right
light|dark
old|young
rich|poor
happy|sad
hard|soft
high|low
wet|dry
early|late
full|empty
open|closed
strong|weak
clean|dirty
loud|quiet
near|far
thick|thin
true|false
push|pull
start|finish
day|night
cheap|expensive
deep|shallow
sharp|blunt
brave|timid
rough|smooth
win|lose
"""

# animal | young | sound or habit
ANIMALS = """
dog|puppy|barks
cat|kitten|meows
cow|calf|moos
sheep|lamb|bleats
horse|foal|neighs
pig|piglet|grunts
duck|duckling|quacks
lion|cub|roars
frog|tadpole|croaks
goat|kid|bleats
hen|chick|clucks
wolf|pup|howls
swan|cygnet|hisses
deer|fawn|bellows
owl|owlet|hoots
bear|cub|growls
"""

# element | symbol | atomic number
ELEMENTS = """
hydrogen|H|1
helium|He|2
lithium|Li|3
carbon|C|6
nitrogen|N|7
oxygen|O|8
neon|Ne|10
sodium|Na|11
magnesium|Mg|12
aluminium|Al|13
silicon|Si|14
sulfur|S|16
chlorine|Cl|17
argon|Ar|18
potassium|K|19
calcium|Ca|20
iron|Fe|26
copper|Cu|29
zinc|Zn|30
silver|Ag|47
tin|Sn|50
gold|Au|79
mercury|Hg|80
lead|Pb|82
uranium|U|92
"""

# status code | what it means
STATUS_CODES = """
200|the request succeeded
201|something new was created
204|it worked and there is no content
301|the page has moved for good
304|nothing changed since last time
400|the request is not valid
401|the key is missing or wrong
403|you are not allowed to do that
404|there is nothing at that address
408|the request came too slowly
413|the body is too large
429|there are too many requests
500|the server failed
502|the server behind gave a bad reply
503|the service is not ready now
504|the time ran out before an answer
"""

# thing | how many | of what
COUNTS = """
a minute|60|seconds
an hour|60|minutes
a day|24|hours
a week|7|days
a year|12|months
a dozen|12|things
a decade|10|years
a century|100|years
a kilometre|1000|metres
a metre|100|centimetres
a kilogram|1000|grams
a byte|8|bits
a triangle|3|sides
a square|4|sides
a hexagon|6|sides
a spider|8|legs
an insect|6|legs
an octopus|8|arms
a leap year|366|days
the alphabet|26|letters
"""

# word of this project | what it means here
GLOSSARY = """
worker|a worker is one process with one address, one accelerator and one lease
endpoint|an endpoint is one model variant that a worker serves
node|a node is an endpoint plus what the gateway knows of it
fleet|the fleet is all nodes together
region|a region is a place where workers stand close to each other
model|a model is the name that clients ask for
variant|a variant is one accelerated build of a model with its measured quality
tier|a tier is the nodes whose cost is within five percent of the cheapest one
load|load is what a node reports: what waits, what runs and as of when
ETA|the ETA is the predicted time until an answer is complete
deadline|a deadline is the moment by which the answer must be complete
budget|the budget is the time left until the deadline
slack|slack is the budget minus the ETA
balancer|a balancer picks one node among those that may serve a request
policy|a policy is a balancer with admission, health and retry settings
shed|to shed is to refuse a request before any work was done for it
dispatch|a dispatch is the decision to send a request to a node
outcome|an outcome is what came of a dispatch
hedge|a hedge is a second attempt sent before the first one has failed
ejection|ejection takes a failing node out of use for a while
panic|panic means that most nodes look sick, so the gateway doubts its own eyes
drain|to drain a worker is to let it finish its work and give it no more
lease|a lease is a promise that ends by itself when a worker stops renewing it
heartbeat|a heartbeat is the small message that renews a lease
isochrone|an isochrone is the line of all places that can be reached in equal time
gateway|the gateway sends each request to the cheapest node that meets its deadline
registry|the registry is the Redis where workers write their records
quality|quality is the score of a variant divided by the score of its reference
quantization|quantization stores weights as small integers to make a model faster
batching|batching runs several requests at once to use an accelerator well
"""

# next day and next month follow from the order
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday"
MONTHS = "January February March April May June July August September October November December"

# small talk: what people say, variants separated by /; below it the answer
SMALL_TALK = """
Hello!/Hi!/Hi there!/Hello there!/Hey!/Good day!
Hello! How can I help you today?

Good morning!/Morning!/Good morning to you!
Good morning! How can I help you today?

Good evening!/Evening!/Good evening to you!
Good evening! How can I help you today?

How are you?/How are you doing?/How do you do?/How is it going?
I am fine, thank you. What would you like to know?

Who are you?/What are you?/What is your name?/Tell me about yourself.
I am tinychat, a very small language model that ships with Isochrone.

What can you do?/How can you help me?/What do you know?/What can I ask you?
I know some capitals, sums, opposites, animals, elements and the words of this project.

Thank you!/Thanks!/Thank you very much!/Many thanks!
You are welcome!

Goodbye!/Bye!/See you later!/Good night!
Goodbye! Come back soon.

How large are you?/How many parameters do you have?/How big are you?/What is your size?
I have about two million parameters, which is tiny for a language model.

Are you a human?/Are you a person?/Are you alive?/Are you real?
No, I am a small computer program.

What is Isochrone?/Tell me about Isochrone./Explain Isochrone./What does Isochrone do?
Isochrone is a gateway that sends each request to the cheapest node that meets its deadline.

Say hello world./Print hello world./Can you say hello world?/Say hello world please.
Hello, world!

Tell me a joke./Do you know a joke?/Make me laugh./Say something funny.
Why did the packet cross the network? To meet its deadline.

Say this is a test./This is a test./Is this a test?/Just a test.
This is a test.
"""
